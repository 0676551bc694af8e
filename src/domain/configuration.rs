//! Enrollment configurations: their kinds, and the one table of what each kind can be assigned to.
//!
//! Guarantees: a target that Graph would refuse or, worse, store as something else is refused here, before Graph is called.
//! The table follows Microsoft's documentation and reports from users of real tenants; see `docs/graph.md`.
//!
//! It deliberately leaves room for new kinds: one that Microsoft adds later is [`Kind::Unknown`] and accepts groups only,
//! because every assignable kind can be assigned to groups.

use serde::{Deserialize, Serialize};

use super::{
    assignment::Target,
    change::DesiredAssignment,
    ids::{ApiVersion, ConfigurationId},
};

/// The kind of an enrollment configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Enrollment status page.
    StatusPage,
    /// Restriction of one platform.
    PlatformRestriction,
    /// Restrictions of all platforms in one object (legacy).
    PlatformRestrictions,
    /// How many devices a user may enroll.
    DeviceLimit,
    /// Windows Hello for Business.
    WindowsHello,
    /// Co-management authority.
    CoManagement,
    /// Enrollment notification.
    Notification,
    /// Windows restore.
    WindowsRestore,
    /// A kind that this version does not know.
    Unknown,
}

/// What one kind can be assigned to. No row has exclusions: on enrollment configurations Graph stores an exclusion as an
/// inclusion, so the group that was to be excluded would be reached.
struct Takes {
    kind: Kind,
    name: &'static str,
    groups: Answer,
    all_users: Answer,
    all_devices: Answer,
    filters: Answer,
    /// Whether Graph's v1.0 knows this kind.
    in_v1: bool,
}

/// Whether a kind accepts something, and if not, why.
type Answer = Result<(), &'static str>;

const TENANT_WIDE: Answer = Err("it applies to the whole tenant and cannot be assigned");
const USER_BASED: Answer = Err("it is evaluated for users, so assigning it to all devices has no effect");
const NO_FILTERS: Answer = Err("Intune does not evaluate assignment filters on it");

const KINDS: [Takes; 9] = [
    Takes {
        kind: Kind::StatusPage,
        name: "status-page",
        groups: Ok(()),
        all_users: Ok(()),
        all_devices: Ok(()),
        filters: Ok(()),
        in_v1: true,
    },
    Takes {
        kind: Kind::PlatformRestriction,
        name: "platform-restriction",
        groups: Ok(()),
        all_users: Ok(()),
        all_devices: USER_BASED,
        filters: Ok(()),
        in_v1: false,
    },
    Takes {
        kind: Kind::PlatformRestrictions,
        name: "platform-restrictions",
        groups: Ok(()),
        all_users: Ok(()),
        all_devices: USER_BASED,
        filters: NO_FILTERS,
        in_v1: true,
    },
    Takes {
        kind: Kind::DeviceLimit,
        name: "device-limit",
        groups: Ok(()),
        all_users: Ok(()),
        all_devices: USER_BASED,
        filters: NO_FILTERS,
        in_v1: true,
    },
    Takes {
        kind: Kind::WindowsHello,
        name: "windows-hello",
        groups: TENANT_WIDE,
        all_users: TENANT_WIDE,
        all_devices: TENANT_WIDE,
        filters: TENANT_WIDE,
        in_v1: true,
    },
    Takes {
        kind: Kind::CoManagement,
        name: "co-management",
        groups: Ok(()),
        all_users: Err("Microsoft does not document that it can be assigned to all users"),
        all_devices: Err("Microsoft does not document that it can be assigned to all devices"),
        filters: NO_FILTERS,
        in_v1: false,
    },
    Takes {
        kind: Kind::Notification,
        name: "notification",
        groups: Ok(()),
        all_users: Ok(()),
        all_devices: USER_BASED,
        filters: NO_FILTERS,
        in_v1: false,
    },
    Takes {
        kind: Kind::WindowsRestore,
        name: "windows-restore",
        groups: TENANT_WIDE,
        all_users: TENANT_WIDE,
        all_devices: TENANT_WIDE,
        filters: TENANT_WIDE,
        in_v1: false,
    },
    Takes {
        kind: Kind::Unknown,
        name: "unknown",
        groups: Ok(()),
        all_users: Err("this version of the gateway does not know the kind"),
        all_devices: Err("this version of the gateway does not know the kind"),
        filters: Err("this version of the gateway does not know the kind"),
        in_v1: false,
    },
];

impl Kind {
    fn row(self) -> &'static Takes {
        KINDS.iter().find(|row| row.kind == self).unwrap_or(&KINDS[8])
    }

    /// The name used in the API, in policies and in audit records.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// All names, in table order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|row| row.name)
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        KINDS.iter().find(|row| row.name == name).map(|row| row.kind)
    }

    /// Whether a version of Graph knows this kind.
    pub fn is_in(self, version: ApiVersion) -> bool {
        version == ApiVersion::Beta || self.row().in_v1
    }

    /// What this kind accepts, by name.
    pub fn accepted_targets(self) -> impl Iterator<Item = &'static str> {
        let Takes { groups, all_users, all_devices, filters, .. } = self.row();
        let named = [("groups", groups), ("all-users", all_users), ("all-devices", all_devices), ("filters", filters)];
        named.into_iter().filter(|(_, answer)| answer.is_ok()).map(|(name, _)| name)
    }

    /// Whether this kind can be assigned as `wanted` says; the error is a sentence that says why not.
    pub fn check_accepts(self, wanted: &DesiredAssignment) -> Result<(), String> {
        let row = self.row();
        let refused = |what: &str, why: &str| format!("a {} configuration does not accept {what}: {why}", row.name);
        match wanted.target {
            Target::Group(_) => row.groups.map_err(|why| refused("groups", why))?,
            Target::AllUsers => row.all_users.map_err(|why| refused("all users", why))?,
            Target::AllDevices => row.all_devices.map_err(|why| refused("all devices", why))?,
            Target::ExcludedGroup(_) => {
                return Err(refused("exclusions", "Graph would store the excluded group as an included one"));
            }
            Target::Foreign(_) => return Err(refused("this target", "only Microsoft's own tools can create it")),
        }
        if wanted.filter.is_some() { row.filters.map_err(|why| refused("filters", why)) } else { Ok(()) }
    }
}

/// An enrollment configuration as Graph describes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// Its full id.
    pub id: ConfigurationId,
    /// Its display name, which need not be unique; empty if it has none.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its rank among configurations of its kind; the lowest number wins, 0 marks the default.
    pub priority: i64,
}

impl Configuration {
    /// Whether this is one of the tenant's defaults, whose assignments must not be written. Kind and name do not show it:
    /// Graph gives defaults the same kinds as other configurations, and all of them the same name.
    pub fn is_default(&self) -> bool {
        self.priority == 0 || self.id.is_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Filter, FilterMode};

    fn group() -> Target {
        Target::Group("9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa".parse().unwrap())
    }

    #[test]
    fn every_kind_has_its_own_row_and_name() {
        let names: std::collections::BTreeSet<_> = KINDS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), KINDS.len());
        assert!(KINDS.iter().all(|row| row.kind.name() == row.name));
    }

    #[test]
    fn v1_knows_half_of_the_kinds_and_beta_all() {
        let known = |version| KINDS.iter().filter(|row| row.kind.is_in(version)).count();
        assert_eq!((known(ApiVersion::V1), known(ApiVersion::Beta)), (4, KINDS.len()));
        assert!(!Kind::Unknown.is_in(ApiVersion::V1));
    }

    #[test]
    fn no_kind_takes_exclusions_and_the_reason_is_said() {
        for row in &KINDS {
            let excluded = Target::ExcludedGroup("9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa".parse().unwrap());
            let why = row.kind.check_accepts(&DesiredAssignment { target: excluded, filter: None }).unwrap_err();
            assert!(why.contains("exclusions"), "{why}");
        }
    }

    #[test]
    fn what_a_kind_is_said_to_take_it_takes() {
        let filter = Filter { id: "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa".parse().unwrap(), mode: FilterMode::Include };
        let targets = [("groups", group()), ("all-users", Target::AllUsers), ("all-devices", Target::AllDevices)];
        for kind in KINDS.iter().map(|row| row.kind) {
            let taken: Vec<_> = kind.accepted_targets().collect();
            for (name, target) in &targets {
                let fits = |filter| kind.check_accepts(&DesiredAssignment { target: target.clone(), filter }).is_ok();
                assert_eq!(fits(None), taken.contains(name), "{} {name}", kind.name());
                assert_eq!(fits(Some(filter)), fits(None) && taken.contains(&"filters"), "{} {name}", kind.name());
            }
        }
    }

    #[test]
    fn a_status_page_takes_filters_and_a_limit_does_not() {
        let filter = Filter { id: "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa".parse().unwrap(), mode: FilterMode::Include };
        let wanted = DesiredAssignment { target: group(), filter: Some(filter) };
        assert_eq!(Kind::StatusPage.check_accepts(&wanted), Ok(()));
        assert!(Kind::DeviceLimit.check_accepts(&wanted).is_err());
    }
}
