//! Named switches for behaviour that nobody outside Microsoft can know.
//!
//! Wherever the documents leave Graph's behaviour open, the sandbox does one thing by default and another by switch, so that
//! a client can be tested under both. A few more set sizes and lifetimes.
//!
//! Guarantees: an unknown name or value is refused, and the error lists the known ones. It deliberately does not hold
//! faults, which are ordered for single calls: see `faults.rs`. Set by the seed and by `POST /_sandbox/switches`; read by
//! every endpoint.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Declares the switches with named values, written in snake case. The first value of each is its default.
macro_rules! switches {
    ($($(#[$doc:meta])* $field:ident: $name:ident { $first:ident $(, $word:ident)+ })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
            #[serde(rename_all = "snake_case")]
            pub(crate) enum $name { #[default] $first $(, $word)+ }
        )+

        /// All switches; [`Switches::default`] holds the documented defaults.
        #[derive(Clone, Debug, Deserialize, Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub(crate) struct Switches {
            $($(#[$doc])* pub(crate) $field: $name,)+
            /// How many reads of a configuration's assignments after an assign still show the state before it.
            pub(crate) reads_behind: u32,
            /// Calls allowed in 20 seconds; none for no limit. Microsoft's limit is 1,000.
            pub(crate) calls_max: Option<usize>,
            /// Writes allowed in 20 seconds; none for no limit. Microsoft's limit is 100.
            pub(crate) writes_max: Option<usize>,
            /// Resource units that group calls may cost in 10 seconds; none for no limit. Microsoft's limit is 3,500.
            pub(crate) group_units_max: Option<usize>,
            /// Rows per page of configurations, assignments and filters; none for a single page.
            pub(crate) page_size: Option<usize>,
            /// Lifetime of a Graph token, also in `expires_in`.
            pub(crate) token_lifetime_seconds: u32,
            /// Calls kept in the journal; older ones are dropped and counted.
            pub(crate) journal_limit: usize,
        }

        impl Default for Switches {
            fn default() -> Self {
                Self {
                    $($field: $name::default(),)+
                    reads_behind: 0,
                    calls_max: None,
                    writes_max: None,
                    group_units_max: None,
                    page_size: None,
                    token_lifetime_seconds: 3599,
                    journal_limit: 10_000,
                }
            }
        }

        impl Switches {
            /// Every switch with named values, and those values.
            pub(crate) fn words() -> Map<String, Value> {
                let words = [$((stringify!($field), json!([$name::$first $(, $name::$word)+])),)+];
                words.into_iter().map(|(name, words)| (name.to_owned(), words)).collect()
            }
        }
    };
}

switches! {
    /// Response to a successful assign: 204, 200 without a body, 200 with one.
    assign_answer: AssignAnswer { NoContent, OkEmpty, OkJson }
    /// What an assign does if its list is missing or null.
    missing_assignments: MissingAssignments { Refused, Clears }
    /// What happens to an exclusion.
    exclusion_targets: ExclusionTargets { StoredAsInclude, Refused }
    /// What happens to a second assignment of one target in the same body.
    duplicate_targets: DuplicateTargets { FirstWins, Refused }
    /// What happens to a well-formed id of a group that does not exist.
    unknown_groups: UnknownGroups { Stored, Refused }
    /// What an assign does to assignments that come from policy sets.
    policy_set_assignments: PolicySetAssignments { Kept, Dropped }
    /// What an assign through v1.0 does to the filters of the targets that it names.
    v1_filters: V1Filters { Dropped, Kept }
    /// How an assign on a default configuration is refused: 403 or 400.
    default_configurations: Refused { Forbidden, BadRequest }
    /// Whether apps may assign platform restrictions.
    restriction_kinds: RestrictionKinds { Allowed, Forbidden }
    /// Whether an assign needs a second administrator's approval, and how it is refused without: 400 or 403 because the
    /// justification is missing, 412 or 403 with the code of the filed approval, 409 because one is pending.
    multi_admin_approval: MultiAdminApproval { Off, BadRequest, Forbidden, PreconditionFailed, ApprovalRequired, Conflict }
    /// How PATCH on an assignment is refused: 400 or 405.
    assignment_patch: AssignmentPatch { NoRoute, NotAllowed }
    /// Response for an unknown configuration: 404 or 400.
    unknown_configuration: UnknownConfiguration { NotFound, BadRequest }
    /// Whether configurations have `@odata.type` when it is not requested.
    configuration_types: ConfigurationTypes { Present, Absent }
    /// Whether `$expand=assignments` shows them: it has been seen empty although there were some.
    expanded_assignments: ExpandedAssignments { Shown, Empty }
    /// How a 429 of these budgets writes `Retry-After`.
    retry_after: RetryAfter { Whole, Fractional, Date, Zero, Absurd, Absent }
    /// Whether enumeration members after the sentinel are named only with `Prefer: include-unknown-enum-members`.
    future_members: FutureMembers { ByPreference, ByName }
    /// The host in next links.
    next_link_host: NextLinkHost { Own, Foreign }
    /// The format of Intune's errors.
    error_shape: ErrorShape { Nested, DoublyNested, Html, Empty }
    /// Spelling of the inner error: `innerError` or `innererror`.
    inner_error: InnerError { InnerError, Lowercase }
}

impl Switches {
    /// These switches with some of them changed; the error says what is wrong and lists the known names or values.
    pub(crate) fn set(&self, wanted: &Map<String, Value>) -> Result<Self, String> {
        let mut all = self.shown();
        let mut set = self.clone();
        for (name, value) in wanted {
            if !all.contains_key(name) {
                return Err(format!("there is no switch `{name}`; known: {}", names(&all)));
            }
            all.insert(name.clone(), value.clone());
            set = Self::deserialize(Value::Object(all.clone())).map_err(|error| format!("`{name}`: {error}"))?;
        }
        if set.page_size == Some(0) {
            return Err("`page_size` must be at least 1, or null for one page".to_owned());
        }
        Ok(set)
    }

    /// Every switch with its present value.
    pub(crate) fn shown(&self) -> Map<String, Value> {
        match json!(self) {
            Value::Object(all) => all,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
        }
    }
}

fn names(all: &Map<String, Value>) -> String {
    all.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}
