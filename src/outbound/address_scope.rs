//! Which addresses a call may connect to, checked after names are resolved.
//!
//! Guarantees: a client bound to an [`AddressScope`] connects to no other address, whatever a name says, since the addresses
//! that it may use are the very ones that were checked: a name that resolves differently a moment later changes nothing.
//! Addresses out of reach are dropped from what a name resolves to; if none is left, the call reaches nobody.
//!
//! It deliberately uses no list of names: what a machine is called says nothing about where it is.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Where a call may connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressScope {
    /// The internet.
    Public,
    /// The internet, and the operator's own network: what RFC 1918, RFC 4193 and RFC 6598 reserve.
    Private,
    /// This machine and nothing else.
    Loopback,
}

/// IPv4 ranges that are not the internet: this network, private, shared, loopback, link-local (including the metadata of
/// clouds), protocols, documentation, 6to4 relays, benchmarks, multicast, reserved.
const NOT_PUBLIC: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    // Where every virtual machine of Azure reaches its host.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
];

/// Those of them that an operator's own network may use.
const AT_HOME: [(Ipv4Addr, u32); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// Where clouds serve the metadata of their machines, within a range that an operator may use.
const METADATA_AT_HOME: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);

/// Within `2000::/3`, the internet: protocols and Teredo, documentation twice, 6to4.
const NOT_PUBLIC_6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

const INTERNET_6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const AT_HOME_6: (Ipv6Addr, u32) = (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);
/// Where Amazon serves the metadata of its machines.
const METADATA_AT_HOME_6: (Ipv6Addr, u32) = (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32);

impl AddressScope {
    /// Whether a call may connect to this address. An IPv6 address that stands for an IPv4 one is never admitted.
    pub fn allows(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::Loopback, address) => address.is_loopback(),
            (Self::Public, IpAddr::V4(address)) => is_public(address),
            (Self::Public, IpAddr::V6(address)) => is_public_6(address),
            (Self::Private, IpAddr::V4(address)) => is_public(address) || is_at_home(address),
            (Self::Private, IpAddr::V6(address)) => is_public_6(address) || is_at_home_6(address),
        }
    }

    /// Why a URL is out of reach by itself, before any name is resolved; none if it is not.
    pub(super) fn refusal_of(self, url: &str) -> Option<String> {
        let url = match Url::parse(url) {
            Ok(url) => url,
            Err(error) => return Some(error.to_string()),
        };
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            // Names are checked when they are resolved.
            Some(Host::Domain(_)) | None => return None,
        };
        (!self.allows(address)).then(|| AddressNotAllowed { host: address.to_string(), scope: self }.to_string())
    }
}

fn is_public(address: Ipv4Addr) -> bool {
    !NOT_PUBLIC.iter().any(|range| within(address, *range))
}

fn is_at_home(address: Ipv4Addr) -> bool {
    AT_HOME.iter().any(|range| within(address, *range)) && address != METADATA_AT_HOME
}

fn is_public_6(address: Ipv6Addr) -> bool {
    within_6(address, INTERNET_6) && !NOT_PUBLIC_6.iter().any(|range| within_6(address, *range))
}

fn is_at_home_6(address: Ipv6Addr) -> bool {
    within_6(address, AT_HOME_6) && !within_6(address, METADATA_AT_HOME_6)
}

fn within(address: Ipv4Addr, (net, bits): (Ipv4Addr, u32)) -> bool {
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
    address.to_bits() & mask == net.to_bits()
}

fn within_6(address: Ipv6Addr, (net, bits): (Ipv6Addr, u32)) -> bool {
    let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
    address.to_bits() & mask == net.to_bits()
}

/// None of a host's addresses may be reached.
#[derive(Debug)]
struct AddressNotAllowed {
    host: String,
    scope: AddressScope,
}

impl fmt::Display for AddressNotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = match self.scope {
            AddressScope::Public => "the internet",
            AddressScope::Private => "the internet or one's own network",
            AddressScope::Loopback => "this machine",
        };
        write!(f, "{} is no address on {wanted}, so it is not called", self.host)
    }
}

impl std::error::Error for AddressNotAllowed {}

/// Resolves names through the system, and drops addresses out of reach.
#[derive(Debug)]
pub(super) struct Resolver(pub(super) AddressScope);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Self(scope) = *self;
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let asked = host.clone();
            // The system's resolver blocks.
            let found = tokio::task::spawn_blocking(move || (asked.as_str(), 0).to_socket_addrs()).await??;
            let admitted: Vec<SocketAddr> = found.filter(|found| scope.allows(found.ip())).collect();
            if admitted.is_empty() {
                return Err(AddressNotAllowed { host, scope }.into());
            }
            let admitted: Addrs = Box::new(admitted.into_iter());
            Ok(admitted)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(scope: AddressScope, addresses: &[&str]) -> Vec<String> {
        let admitted = addresses.iter().filter(|address| scope.allows(address.parse().unwrap()));
        admitted.map(|address| (*address).to_owned()).collect()
    }

    const INTERNET: [&str; 6] =
        ["1.1.1.1", "13.107.6.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a02:26f0::1"];
    const HOME: [&str; 6] = ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fd12:3456::1"];
    const NOWHERE: [&str; 28] = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:10.0.0.1",
        "::ffff:1.1.1.1",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "2002:a00:1::",
        "2001::1",
        "2001:db8::1",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
    ];

    #[test]
    fn public_addresses_are_those_reserved_for_nothing_else() {
        assert_eq!(all(AddressScope::Public, &INTERNET), INTERNET);
        assert!(all(AddressScope::Public, &HOME).is_empty() && all(AddressScope::Public, &NOWHERE).is_empty());
    }

    #[test]
    fn ones_own_network_is_neither_this_machine_nor_this_link_nor_a_clouds_metadata() {
        assert_eq!(all(AddressScope::Private, &HOME), HOME);
        assert_eq!(all(AddressScope::Private, &INTERNET), INTERNET);
        assert!(all(AddressScope::Private, &NOWHERE).is_empty());
    }

    #[test]
    fn this_machine_is_nothing_else() {
        assert_eq!(all(AddressScope::Loopback, &["127.0.0.1", "127.8.8.8", "::1"]), ["127.0.0.1", "127.8.8.8", "::1"]);
        for addresses in [&INTERNET[..], &HOME, &["169.254.169.254", "::ffff:127.0.0.1", "0.0.0.0", "::"]] {
            assert!(all(AddressScope::Loopback, addresses).is_empty());
        }
    }

    #[test]
    fn every_spelling_of_an_address_is_treated_alike() {
        for host in [
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "017700000001",
            "0177.0.0.1",
            "127.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[64:ff9b::7f00:1]",
            "169.254.169.254",
            "0xa9fea9fe",
            "[fe80::1]",
            "127.0.0.1.",
            "\u{ff11}27.0.0.1",
            "0",
        ] {
            assert!(AddressScope::Public.refusal_of(&format!("https://{host}/x")).is_some(), "{host}");
        }
        assert!(AddressScope::Public.refusal_of("https://1.1.1.1/x").is_none());
        assert!(AddressScope::Loopback.refusal_of("https://0x7f.1/x").is_none());
    }

    #[tokio::test]
    async fn addresses_are_checked_after_name_resolution() {
        let resolved = |scope| Resolver(scope).resolve("localhost".parse().unwrap());
        assert!(resolved(AddressScope::Loopback).await.unwrap().all(|found| found.ip().is_loopback()));
        for scope in [AddressScope::Public, AddressScope::Private] {
            let error = resolved(scope).await.err().unwrap().to_string();
            assert!(error.contains("localhost is no address on"), "{error}");
        }
    }
}
