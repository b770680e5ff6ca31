//! Networks: which addresses belong together, as an operator writes them.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A network: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

/// Why a text is no [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Neither an address nor one with a prefix length.
    #[error("`{0}` is no network: expected `ADDRESS/BITS` or an address")]
    Malformed(String),
    /// The address has bits that the prefix leaves out.
    #[error("`{text}` has bits outside its prefix: did you mean `{meant}`?")]
    Outside {
        /// The text.
        text: String,
        /// The network that the address is in.
        meant: String,
    },
}

impl Network {
    /// Whether `address` is in it. An IPv4 address in the clothes of IPv6 counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.to_canonical().into()));
        }
        let network: IpNet = text
            .parse()
            .map_err(|_| NetworkError::Malformed(text.to_owned()))?;
        if network.trunc() != network {
            return Err(NetworkError::Outside {
                text: text.to_owned(),
                meant: network.trunc().to_string(),
            });
        }
        Ok(Self(plain(network)))
    }
}

/// A network of IPv4 in the clothes of IPv6 as what it is, since addresses are looked at as what they
/// are.
fn plain(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(six) => six
            .addr()
            .to_ipv4_mapped()
            .zip(six.prefix_len().checked_sub(96))
            .and_then(|(four, bits)| Ipv4Net::new(four, bits).ok())
            .map_or(network, IpNet::V4),
        IpNet::V4(_) => network,
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(out)
        } else {
            self.0.fmt(out)
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Network;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a network such as \"10.0.0.0/8\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Network, E> {
                text.parse().map_err(E::custom)
            }
        }

        from.deserialize_str(Visitor)
    }
}

impl JsonSchema for Network {
    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "A network such as \"10.0.0.0/8\", or one address.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        let has = |net: &str, address: &str| network(net).contains(address.parse().unwrap());
        assert!(has("10.0.0.0/8", "10.1.2.3") && !has("10.0.0.0/8", "11.0.0.1"));
        assert!(has("10.0.0.0/8", "::ffff:10.1.2.3"));
        for four in ["10.1.2.3", "::ffff:10.1.2.3"] {
            assert!(has("::ffff:10.0.0.0/104", four), "{four}");
            assert!(has("::ffff:10.1.2.3", four), "{four}");
        }
        assert!(has("::ffff:0:0/96", "8.8.8.8") && !has("::ffff:10.0.0.0/104", "11.0.0.1"));
        assert!(has("::1", "::1") && !has("::1", "::2"));
        assert!(has("0.0.0.0/0", "8.8.8.8") && !has("0.0.0.0/0", "::1"));
        assert_eq!(network("127.0.0.1").to_string(), "127.0.0.1");
        assert_eq!(network("fd00::/8").to_string(), "fd00::/8");
        for bad in ["", "x", "10.0.0.0/33", "10.0.0", "localhost", "/8"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        let error = "10.0.0.1/8".parse::<Network>().unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/8"), "{error}");
    }
}
