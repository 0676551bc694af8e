//! Named switches for what nobody outside Microsoft can know.
//!
//! Wherever the documents leave Graph's behaviour open, the sandbox does one thing by default and another by
//! switch, so that a client can be tested under both. A few more set sizes and lifetimes.
//!
//! It guarantees that an unknown name or value is refused and the known names are told. It deliberately does not
//! hold faults: those are orders for single calls, see `faults.rs`. Set by the seed and by `POST
//! /_sandbox/switches`; read by every endpoint.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Declares the switches of words, written in snake case. The first word of each is its default.
macro_rules! switches {
    ($($(#[$doc:meta])* $field:ident: $name:ident { $first:ident $(, $word:ident)+ })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
            #[serde(rename_all = "snake_case")]
            pub(crate) enum $name { #[default] $first $(, $word)+ }
        )+

        /// All switches; [`Switches::default`] is the documented default.
        #[derive(Clone, Debug, Deserialize, Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub(crate) struct Switches {
            $($(#[$doc])* pub(crate) $field: $name,)+
            /// How many reads of a configuration's assignments still show them as they were before an assign.
            pub(crate) reads_behind: u32,
            /// Calls that an app may make in 20 seconds; absent: any number. Microsoft's is 1,000.
            pub(crate) calls_max: Option<usize>,
            /// Writes that an app may make in 20 seconds; absent: any number. Microsoft's is 100.
            pub(crate) writes_max: Option<usize>,
            /// Resource units that groups may cost in 10 seconds; absent: any number. Microsoft's is 3,500.
            pub(crate) group_units_max: Option<usize>,
            /// Rows per page of configurations and assignments; absent: one page.
            pub(crate) page_size: Option<usize>,
            /// What `expires_in` of a Graph token says, and how long it is good for.
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
            /// Every switch of words by name, with the words it knows.
            pub(crate) fn words() -> Map<String, Value> {
                let words = [$((stringify!($field), json!([$name::$first $(, $name::$word)+])),)+];
                words.into_iter().map(|(name, words)| (name.to_owned(), words)).collect()
            }
        }
    };
}

switches! {
    /// What a successful assign answers: 204, 200 without a body, 200 with one.
    assign_answer: AssignAnswer { NoContent, OkEmpty, OkJson }
    /// What a body without its list, or with null for it, does.
    missing_assignments: MissingAssignments { Refused, Clears }
    /// What becomes of an exclusion.
    exclusion_targets: ExclusionTargets { StoredAsInclude, Refused }
    /// What becomes of a second assignment of one target.
    duplicate_targets: DuplicateTargets { FirstWins, Refused }
    /// What becomes of a well-formed id of no group.
    unknown_groups: UnknownGroups { Stored, Refused }
    /// What an assign does to assignments that come from policy sets.
    policy_set_assignments: PolicySetAssignments { Kept, Dropped }
    /// What an assign through v1.0 does to the filters of targets it names.
    v1_filters: V1Filters { Dropped, Kept }
    /// How an assign on a default configuration is refused: 403 or 400.
    default_configurations: Refused { Forbidden, BadRequest }
    /// Whether an app may assign platform restrictions.
    restriction_kinds: RestrictionKinds { Allowed, Forbidden }
    /// Whether an assign needs a second administrator's approval, and how one that nobody approved is refused: 400 or 403
    /// because no reason was given, 412 or 403 with the code of the approval that was filed, 409 because one is pending.
    multi_admin_approval: MultiAdminApproval { Off, BadRequest, Forbidden, PreconditionFailed, ApprovalRequired, Conflict }
    /// How PATCH on an assignment is refused: 400 or 405.
    assignment_patch: AssignmentPatch { NoRoute, NotAllowed }
    /// How an unknown configuration is answered: 404 or 400.
    unknown_configuration: UnknownConfiguration { NotFound, BadRequest }
    /// Whether configurations carry `@odata.type` without being asked.
    configuration_types: ConfigurationTypes { Present, Absent }
    /// Whether `$expand=assignments` shows them: it has been seen empty though there were some.
    expanded_assignments: ExpandedAssignments { Shown, Empty }
    /// How the pause is written with which a budget refuses.
    retry_after: RetryAfter { Whole, Fractional, Date, Zero, Absurd, Absent }
    /// Whether enum members after the sentinel need `Prefer: include-unknown-enum-members` to be named.
    future_members: FutureMembers { ByPreference, ByName }
    /// Which host a next link names.
    next_link_host: NextLinkHost { Own, Foreign }
    /// How Intune wraps its errors, or that it sends no JSON at all.
    error_shape: ErrorShape { Nested, DoublyNested, Html, Empty }
    /// How the inner error is spelled: `innerError` or `innererror`.
    inner_error: InnerError { InnerError, Lowercase }
}

impl Switches {
    /// These switches with some changed; an error names what is wrong and lists what can be set.
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

    /// Every switch by name with its present value.
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
