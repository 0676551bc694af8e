//! The application permissions that the gateway needs in Graph: the one table.
//!
//! For each it says what it is needed for and what happens without it, for `postern check --live` and for refusals.
//!
//! It deliberately follows Microsoft's reference, never the names in Graph's refusals: some of those do not exist in Entra.

/// A permission that the gateway needs.
#[derive(Debug, PartialEq, Eq)]
pub struct Permission {
    /// The least privileged one that suffices.
    pub least: &'static str,
    /// Others that suffice as well.
    pub(super) instead: &'static [&'static str],
    /// What it is needed for.
    pub purpose: &'static str,
    /// What happens without it, if the gateway can do without it.
    pub(super) otherwise: Option<&'static str>,
}

impl Permission {
    /// Whether nothing works without it.
    pub(super) fn is_needed(&self) -> bool {
        self.otherwise.is_none()
    }
}

/// For reading configurations and their assignments, on its own.
pub(super) static READING: Permission = Permission {
    least: "DeviceManagementServiceConfig.Read.All",
    instead: &["DeviceManagementServiceConfig.ReadWrite.All"],
    purpose: "to read enrollment configurations (DeviceManagementServiceConfig.ReadWrite.All, needed to assign them, \
              includes it)",
    otherwise: None,
};

/// For assigning, which includes reading.
pub(super) static ASSIGNING: Permission = Permission {
    least: "DeviceManagementServiceConfig.ReadWrite.All",
    instead: &[],
    purpose: "to read and assign enrollment configurations",
    otherwise: None,
};

/// For looking up groups.
pub static GROUPS: Permission = Permission {
    least: "GroupMember.Read.All",
    instead: &[
        "Group.Read.All",
        "Directory.Read.All",
        "GroupMember.ReadWrite.All",
        "Group.ReadWrite.All",
        "Directory.ReadWrite.All",
    ],
    purpose: "to look groups up before they are assigned, and to find them by name",
    otherwise: Some("ids of groups are taken as they are, and names of groups are refused"),
};

/// For assignment filters.
pub static FILTERS: Permission = Permission {
    least: "DeviceManagementConfiguration.Read.All",
    instead: &["DeviceManagementConfiguration.ReadWrite.All"],
    purpose: "to find assignment filters by name",
    otherwise: Some("filters are named by id or by an alias of the catalogue"),
};

/// All that an application is granted; the others are included in these.
pub(super) static GIVEN: [&Permission; 3] = [&ASSIGNING, &GROUPS, &FILTERS];
