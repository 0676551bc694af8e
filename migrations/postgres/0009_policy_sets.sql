-- What came from policy sets when a lane last looked, as a list of texts in JSON; no row where nothing did. When some of it is gone, that is
-- recorded once, whichever replica sees it.
CREATE TABLE policy_sets (
    configuration TEXT PRIMARY KEY,
    seen TEXT NOT NULL
);
