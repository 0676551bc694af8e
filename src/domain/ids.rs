//! Parsed identifiers, the table of clouds, and the versions of Graph.
//!
//! Guarantees: a value of one of these types is well formed, since parsing is the only way to make one; printing and parsing
//! it again gives the same value.
//!
//! It deliberately does not look anything up: a well-formed identifier need not belong to an existing object.

use std::{fmt, str, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// Why a text is not a valid identifier of the expected kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ParseError {
    what: String,
}

impl ParseError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

/// Implements `Display`, `FromStr` and `serde` for an identifier that is a GUID.
macro_rules! guid {
    ($name:ident, $noun:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                let guid = hyphenated(text).ok_or_else(|| {
                    ParseError::new(concat!($noun, " is a GUID like 9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa"))
                })?;
                Self::checked(guid)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseError;

            fn try_from(text: String) -> Result<Self, ParseError> {
                text.parse()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

guid!(GroupId, "a group's id", "The object id of an Entra group.");
guid!(FilterId, "a filter's id", "The id of an Intune assignment filter.");
guid!(TenantId, "a tenant's id", "The id of an Entra tenant.");

/// Intune's stand-in group for "all users"; not an object in Entra.
const ALL_USERS: Uuid = Uuid::from_u128(0xacac_acac_9df4_4c7d_9d50_4ef0_226f_57a9);
/// Intune's stand-in group for "all devices"; not an object in Entra.
const ALL_DEVICES: Uuid = Uuid::from_u128(0xadad_adad_808e_44e2_905a_0b78_73a8_a531);

impl GroupId {
    fn checked(guid: Uuid) -> Result<Self, ParseError> {
        if guid == ALL_USERS {
            return Err(ParseError::new(
                "this is Intune's stand-in for all users, not a group: write {\"all\": \"users\"}",
            ));
        }
        if guid == ALL_DEVICES {
            return Err(ParseError::new(
                "this is Intune's stand-in for all devices, not a group: write {\"all\": \"devices\"}",
            ));
        }
        Ok(Self(guid))
    }
}

impl FilterId {
    #[expect(clippy::unnecessary_wraps, reason = "one macro for all GUIDs; groups have values to refuse")]
    fn checked(guid: Uuid) -> Result<Self, ParseError> {
        Ok(Self(guid))
    }
}

impl TenantId {
    #[expect(clippy::unnecessary_wraps, reason = "one macro for all GUIDs; groups have values to refuse")]
    fn checked(guid: Uuid) -> Result<Self, ParseError> {
        Ok(Self(guid))
    }
}

/// A GUID in the form that Microsoft uses; `Uuid` alone would also accept braces, URNs and digits without hyphens.
fn hyphenated(text: &str) -> Option<Uuid> {
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

/// The full id of an enrollment configuration: `{GUID}_{Suffix}`.
///
/// The suffix names the kind, but Microsoft can add suffixes, so it is kept as received.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConfigurationId(String);

impl ConfigurationId {
    /// The id as Graph writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the id alone shows that this is one of the tenant's default configurations, which are never written.
    pub fn is_default(&self) -> bool {
        self.0.split_once('_').is_some_and(|(_, suffix)| suffix.starts_with("Default"))
    }
}

impl fmt::Display for ConfigurationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ConfigurationId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let malformed = || {
            ParseError::new(
                "a configuration's id is a GUID and a suffix, like \
                 9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_Windows10EnrollmentCompletionPageConfiguration",
            )
        };
        let (guid, suffix) = text.split_once('_').ok_or_else(malformed)?;
        let known =
            suffix.len() <= 100 && !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if hyphenated(guid).is_none() || !known {
            return Err(malformed());
        }
        // One spelling only: two spellings of one GUID would be two lanes for one configuration.
        Ok(Self(format!("{}_{suffix}", guid.to_ascii_lowercase())))
    }
}

impl TryFrom<String> for ConfigurationId {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<ConfigurationId> for String {
    fn from(id: ConfigurationId) -> Self {
        id.0
    }
}

/// The id of an operation: `op_` and 26 digits in base 32. Later ids sort after earlier ones, also as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct OperationId(u128);

/// Crockford's base 32: without letters that look like digits.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// What comes before them.
const PREFIX: &[u8; 3] = b"op_";
/// The prefix, and 128 bits at five bits per digit.
const LENGTH: usize = 29;

impl From<Uuid> for OperationId {
    fn from(id: Uuid) -> Self {
        Self(id.as_u128())
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut text, mut rest) = ([b'0'; LENGTH], self.0);
        // Formatted in one pass, from the last digit: this runs a dozen times for each change.
        for letter in text.iter_mut().rev() {
            *letter = DIGITS.get(usize::try_from(rest & 31).unwrap_or(0)).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        for (letter, first) in text.iter_mut().zip(PREFIX) {
            *letter = *first;
        }
        f.write_str(str::from_utf8(&text).map_err(|_ascii| fmt::Error)?)
    }
}

impl FromStr for OperationId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let malformed = || ParseError::new("an operation's id is op_ and 26 digits or letters");
        let digits = text.as_bytes().strip_prefix(PREFIX).ok_or_else(malformed)?;
        // The first digit holds only the three highest bits.
        if text.len() != LENGTH || digits.first().is_some_and(|first| *first > b'7') {
            return Err(malformed());
        }
        digits
            .iter()
            .try_fold(0_u128, |value, letter| {
                let digit = DIGITS.iter().position(|known| known == letter)?;
                Some((value << 5) | u128::try_from(digit).ok()?)
            })
            .map(Self)
            .ok_or_else(malformed)
    }
}

impl TryFrom<String> for OperationId {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl Serialize for OperationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A sovereign instance of Microsoft's cloud, or our sandbox.
///
/// Source: Microsoft Graph's page on national cloud deployments, read 2026.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// The worldwide service, and US Government GCC.
    Global,
    /// US Government L4 (GCC High).
    UsGov,
    /// US Government L5 (Department of Defense).
    UsGovDod,
    /// China, operated by 21Vianet.
    China,
    /// `postern sandbox` on this machine; its token scope follows its address.
    Sandbox,
}

/// One row of the table of clouds: name in the settings, root of Graph's URLs, login authority.
type CloudRow = (Cloud, &'static str, &'static str, &'static str);

const CLOUDS: [CloudRow; 5] = [
    (Cloud::Global, "global", "https://graph.microsoft.com", "https://login.microsoftonline.com"),
    (Cloud::UsGov, "us-gov", "https://graph.microsoft.us", "https://login.microsoftonline.us"),
    (Cloud::UsGovDod, "us-gov-dod", "https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
    (Cloud::China, "china", "https://microsoftgraph.chinacloudapi.cn", "https://login.partner.microsoftonline.cn"),
    (Cloud::Sandbox, "sandbox", "http://127.0.0.1:9400", "http://127.0.0.1:9400"),
];

impl Cloud {
    /// Every cloud, in table order.
    pub fn all() -> impl Iterator<Item = Self> {
        CLOUDS.iter().map(|row| row.0)
    }

    /// The names that the settings accept, in table order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        CLOUDS.iter().map(|row| row.1)
    }

    fn row(self) -> CloudRow {
        CLOUDS.into_iter().find(|row| row.0 == self).unwrap_or(CLOUDS[0])
    }

    /// The name in the settings.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The root of Graph's URLs, without a trailing slash.
    pub fn graph(self) -> &'static str {
        self.row().2
    }

    /// The root of the login service's URLs, without a trailing slash.
    pub fn authority(self) -> &'static str {
        self.row().3
    }
}

impl FromStr for Cloud {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        CLOUDS.iter().find(|row| row.1 == text).map(|row| row.0).ok_or_else(|| {
            ParseError::new(format!("a cloud is one of {}", Self::names().collect::<Vec<_>>().join(", ")))
        })
    }
}

/// A version of Graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// The version for which Microsoft documents `assign`.
    Beta,
    /// The stable version, which knows fewer kinds: see [`Kind::is_in`](super::Kind::is_in).
    V1,
}

const VERSIONS: [(ApiVersion, &str); 2] = [(ApiVersion::Beta, "beta"), (ApiVersion::V1, "v1.0")];

impl ApiVersion {
    /// The name in the settings and in URLs.
    pub fn name(self) -> &'static str {
        VERSIONS.iter().find(|row| row.0 == self).map_or("beta", |row| row.1)
    }
}

impl FromStr for ApiVersion {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let found = VERSIONS.iter().find(|row| row.1 == text).map(|row| row.0);
        found.ok_or_else(|| ParseError::new("a version of Graph is one of beta, v1.0"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_operation_id_survives_printing_and_orders_as_its_text(a: u128, b: u128) {
            let (a, b) = (OperationId(a), OperationId(b));
            prop_assert_eq!(a.to_string().parse::<OperationId>(), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn a_group_id_survives_printing(value: u128) {
            let id = GroupId(Uuid::from_u128(value));
            prop_assert_eq!(id.to_string().parse::<GroupId>(), Ok(id));
        }

        #[test]
        fn a_configuration_id_survives_printing(guid: u128, suffix in "[A-Za-z0-9]{1,40}") {
            let id: ConfigurationId = format!("{}_{suffix}", Uuid::from_u128(guid)).parse().unwrap();
            prop_assert_eq!(id.to_string().parse::<ConfigurationId>(), Ok(id));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,60}") {
            drop((text.parse::<OperationId>(), text.parse::<ConfigurationId>(), text.parse::<GroupId>()));
        }
    }

    #[test]
    fn intunes_stand_in_groups_are_refused() {
        assert!("acacacac-9df4-4c7d-9d50-4ef0226f57a9".parse::<GroupId>().is_err());
        assert!("ADADADAD-808e-44e2-905a-0b7873a8a531".parse::<GroupId>().is_err());
    }

    #[test]
    fn a_guid_has_one_form() {
        for text in ["{9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa}", "9f1c6a4e8a774b8e9d6e3a54b2f1c0aa", "", "Sales"] {
            assert!(text.parse::<GroupId>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_without_its_suffix_or_with_a_path_is_refused() {
        let guid = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa";
        for text in [guid.to_owned(), format!("{guid}_"), format!("{guid}_a/b"), format!("{guid}_a_b")] {
            assert!(text.parse::<ConfigurationId>().is_err(), "{text}");
        }
    }

    #[test]
    fn defaults_are_told_by_their_suffix() {
        let guid = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa";
        assert!(format!("{guid}_DefaultLimit").parse::<ConfigurationId>().unwrap().is_default());
        assert!(!format!("{guid}_Limit").parse::<ConfigurationId>().unwrap().is_default());
    }
}
