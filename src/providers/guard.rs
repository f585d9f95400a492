//! Which addresses an outgoing call may reach when a customer has named where it goes.
//!
//! The special ranges are those of the IANA special-purpose address registries (RFC 6890 and its successors). Of IPv6
//! only global unicast (`2000::/3`) is left, without what carries an IPv4 address or leads nowhere public in it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use url::{Host, Url};

/// A range of addresses, as in `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a range of addresses such as 10.0.0.0/8 or fd00::/8, without bits beyond its prefix")]
pub struct Malformed;

impl Network {
    /// Whether an address lies in it. An IPv4 address that is written as IPv6 lies in no range of IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                masked(network.to_bits().into(), self.prefix, 32)
                    == masked(address.to_bits().into(), self.prefix, 32)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                masked(network.to_bits(), self.prefix, 128) == masked(address.to_bits(), self.prefix, 128)
            }
            _ => false,
        }
    }
}

/// The bits of an address of this width that are in the prefix.
fn masked(bits: u128, prefix: u8, width: u8) -> u128 {
    bits.checked_shr(u32::from(width - prefix)).unwrap_or(0)
}

impl FromStr for Network {
    type Err = Malformed;

    /// Reads `ADDRESS/PREFIX`, or a single address.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (address, prefix) =
            text.split_once('/').map_or((text, None), |(left, right)| (left, Some(right)));
        let address: IpAddr = address.parse().map_err(|_| Malformed)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(width), |prefix| prefix.parse().map_err(|_| Malformed))?;
        if prefix > width {
            return Err(Malformed);
        }
        let bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        // Bits beyond the prefix are a slip (10.1.2.3/8), and what was meant is anyone's guess.
        let beyond = bits.trailing_zeros().min(u32::from(width)) < u32::from(width - prefix);
        if beyond { Err(Malformed) } else { Ok(Self { address, prefix }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Network {
    Network { address: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), prefix }
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Network {
    Network { address: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), prefix }
}

/// IPv4 that is not the public's.
const SPECIAL_V4: [Network; 18] = [
    v4(0, 0, 0, 8),       // "this network", RFC 791
    v4(10, 0, 0, 8),      // private, RFC 1918
    v4(100, 64, 0, 10),   // shared by carriers' NAT, RFC 6598
    v4(127, 0, 0, 8),     // loopback, RFC 1122
    v4(169, 254, 0, 16),  // link-local, RFC 3927; where clouds keep their metadata
    v4(172, 16, 0, 12),   // private, RFC 1918
    v4(192, 0, 0, 24),    // protocol assignments, RFC 6890
    v4(192, 0, 2, 24),    // documentation, RFC 5737
    v4(192, 31, 196, 24), // AS112, RFC 7535
    v4(192, 52, 193, 24), // AMT, RFC 7450
    v4(192, 88, 99, 24),  // relays of 6to4, RFC 7526
    v4(192, 168, 0, 16),  // private, RFC 1918
    v4(192, 175, 48, 24), // AS112, RFC 7534
    v4(198, 18, 0, 15),   // benchmarking, RFC 2544
    v4(198, 51, 100, 24), // documentation, RFC 5737
    v4(203, 0, 113, 24),  // documentation, RFC 5737
    v4(224, 0, 0, 4),     // multicast, RFC 5771
    v4(240, 0, 0, 4),     // reserved, RFC 1112; the last one is the broadcast
];

/// The one range of IPv6 in which there are public hosts.
const GLOBAL_UNICAST: Network = v6(0x2000, 0, 0, 3);

/// What is not the public's in it.
const SPECIAL_V6: [Network; 6] = [
    v6(0x2001, 0, 0, 23),     // protocol assignments, RFC 2928: Teredo, ORCHID, benchmarking
    v6(0x2001, 0xdb8, 0, 32), // documentation, RFC 3849
    v6(0x2002, 0, 0, 16),     // 6to4: holds an IPv4 address, RFC 3056
    v6(0x2620, 0x4f, 0x8000, 48), // AS112, RFC 7534
    v6(0x3ffe, 0, 0, 16),     // 6bone, given back, RFC 3701
    v6(0x3fff, 0, 0, 20),     // documentation, RFC 9637
];

/// The interface identifier of ISATAP, which holds an IPv4 address (RFC 5214).
fn is_isatap(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    matches!(segments[4], 0 | 0x200) && segments[5] == 0x5efe
}

/// Whether an address is private, loopback, link-local, multicast or otherwise not a public host's.
#[must_use]
pub fn is_special(address: IpAddr) -> bool {
    let within = |ranges: &[Network]| ranges.iter().any(|range| range.contains(address));
    match address {
        IpAddr::V4(_) => within(&SPECIAL_V4),
        IpAddr::V6(v6) => !GLOBAL_UNICAST.contains(address) || within(&SPECIAL_V6) || is_isatap(v6),
    }
}

/// Why an address may not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is neither `http` nor `https`, or names no host.
    #[error("must be an http or https URL")]
    Scheme,
    /// It holds a name or a password, which would end up in places where URLs are shown.
    #[error("must not hold a user name or password")]
    UserInfo,
    /// It is, or resolves to nothing but, addresses that are not public.
    #[error("must lead to a public address, not to a private, loopback or otherwise special one")]
    Special,
}

/// Decides which addresses may be called.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Vec<Network>,
}

impl Guard {
    /// Public addresses, and those in the ranges that the operator allows.
    #[must_use]
    pub const fn new(allowed: Vec<Network>) -> Self {
        Self { allowed }
    }

    /// Whether a socket may be opened to this address.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        !is_special(address) || self.allowed.iter().any(|range| range.contains(address))
    }

    /// Checks what a URL itself says: its scheme, and its host where that is an address, in whatever notation. A
    /// name's addresses are checked where they become known.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        check_form(url)?;
        // The URL standard has brought decimal, octal, hexadecimal, short and full-width forms into one.
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(name)) => return if is_local(name) { self.check_loopback() } else { Ok(()) },
            None => return Err(Refused::Scheme),
        };
        if self.permits(address) { Ok(()) } else { Err(Refused::Special) }
    }

    /// Names of this machine are known without asking for their addresses.
    fn check_loopback(&self) -> Result<(), Refused> {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        if loopback.into_iter().any(|address| self.permits(address)) { Ok(()) } else { Err(Refused::Special) }
    }
}

/// Checks that a URL is one that an HTTP client can call, without user info.
///
/// # Errors
/// [`Refused::Scheme`], [`Refused::UserInfo`].
pub fn check_form(url: &Url) -> Result<(), Refused> {
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(Refused::Scheme);
    }
    if url.username().is_empty() && url.password().is_none() { Ok(()) } else { Err(Refused::UserInfo) }
}

/// `localhost` and what is below it, which by RFC 6761 is this machine.
fn is_local(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const SPECIAL: &str = "0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1
        127.255.255.255 169.254.0.0 169.254.169.254 172.16.0.0 172.31.255.255 192.0.0.1 192.0.2.9 192.31.196.1
        192.52.193.1 192.88.99.1 192.168.0.0 192.168.255.255 192.175.48.1 198.18.0.0 198.19.255.255 198.51.100.7
        203.0.113.7 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::7f00:1 ::ffff:127.0.0.1
        ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 1fff::1 2001::1 2001:0:4136:e378::1
        2001:2::1 2001:4:112::1 2001:10::1 2001:20::1 2001:1ff:ffff::1 2001:db8::1 2002:7f00:1::1 2002:808:808::1
        2620:4f:8000::1 3ffe::1 3fff::1 3fff:fff::1 4000::1 5f00::1 fc00::1 fdff::1 fe80::1 febf::1 fec0::1 ff02::1
        2606:4700::5efe:7f00:1 2606:4700::200:5efe:7f00:1";

    const PUBLIC: &str = "1.0.0.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.0.0.1 128.0.0.1
        169.253.0.1 169.255.0.1 172.15.255.255 172.32.0.0 192.0.1.1 192.0.3.1 192.167.0.1 192.169.0.1 198.17.0.1
        198.20.0.1 223.255.255.255 2001:200::1 2001:4860:4860::8888 2003::1 2606:4700::1111 2a00:1450::1 3ffd::1";

    #[test]
    fn special_addresses_are_known_to_their_edges() {
        for text in SPECIAL.split_whitespace() {
            assert!(is_special(address(text)), "{text}");
        }
        for text in PUBLIC.split_whitespace() {
            assert!(!is_special(address(text)), "{text}");
        }
    }

    #[test]
    fn a_range_is_read_without_bits_beyond_its_prefix() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/8", "192.168.1.4/32", "::1/128", "10.0.0.0/7"]
        {
            let network: Network = text.parse().unwrap();
            assert_eq!(network.to_string(), text);
        }
        assert_eq!("::1".parse(), "::1/128".parse::<Network>());
        for text in
            ["10.1.0.0/8", "10.0.0.0/33", "10.0.0.0/", "10/8", "::/129", "fd00::1/8", "", "a", "10.0.0.0/-1"]
        {
            assert_eq!(text.parse::<Network>(), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn an_operator_can_allow_ranges_and_they_are_no_wider_than_they_say() {
        let guard = Guard::new(vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for (text, permitted) in [
            ("10.1.2.3", true),
            ("10.2.0.1", false),
            ("fd12::1", true),
            ("fc00::1", false),
            ("::ffff:10.1.2.3", false),
            ("127.0.0.1", false),
            ("8.8.8.8", true),
        ] {
            assert_eq!(guard.permits(address(text)), permitted, "{text}");
        }
        assert!(Guard::new(vec!["0.0.0.0/0".parse().unwrap()]).permits(address("127.0.0.1")));
    }

    #[test]
    fn localhost_is_this_machine_by_whatever_the_resolver_says() {
        let check = |guard: &Guard, url: &str| guard.check(&Url::parse(url).unwrap());
        for url in ["http://localhost/", "http://LOCALHOST./", "https://a.localhost:8080/x"] {
            assert_eq!(check(&Guard::default(), url), Err(Refused::Special), "{url}");
            assert_eq!(check(&Guard::new(vec!["127.0.0.0/8".parse().unwrap()]), url), Ok(()), "{url}");
        }
        assert_eq!(check(&Guard::default(), "http://notlocalhost/"), Ok(()));
    }
}
