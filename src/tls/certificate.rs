//! What a certificate says of itself.

use std::net::IpAddr;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{TlsError, certificates};

/// When the first certificate of a PEM file ends to be valid, in seconds since the epoch.
///
/// # Errors
/// What cannot be read.
pub fn not_after(pem: &[u8]) -> Result<i64, TlsError> {
    let all = certificates(pem)?;
    let first = all.first().ok_or(TlsError::NoCertificate)?;
    let (_, certificate) = X509Certificate::from_der(first)
        .map_err(|error| TlsError::Certificate(error.to_string()))?;
    Ok(certificate.validity().not_after.timestamp())
}

/// The host names and addresses that the first certificate of a PEM file is for; none if it cannot be
/// read.
pub fn names(pem: &[u8]) -> Vec<String> {
    let all = describe(pem).unwrap_or_default();
    all.into_iter()
        .next()
        .map(|first| first.names)
        .unwrap_or_default()
}

/// One certificate, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Whose it is, as `CN=…, O=…`.
    pub subject: String,
    /// Who vouches for it.
    pub issuer: String,
    /// From when on it is valid, in seconds since the epoch.
    pub not_before: i64,
    /// Until when, likewise.
    pub not_after: i64,
    /// The host names and addresses that it is good for, addresses as text.
    pub names: Vec<String>,
}

impl Described {
    /// Whether it is good for `host`: a name of its own, or one below a wildcard.
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| {
            let wild = name.strip_prefix("*.").is_some_and(|zone| {
                host.split_once('.')
                    .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(zone))
            });
            wild || name.eq_ignore_ascii_case(host)
        })
    }
}

/// Every certificate of a PEM file, in its order.
///
/// # Errors
/// What cannot be read.
pub fn describe(pem: &[u8]) -> Result<Vec<Described>, TlsError> {
    let all = certificates(pem)?;
    let each = all.iter().map(|der| {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| TlsError::Certificate(error.to_string()))?;
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        let names = alternatives.map(|found| {
            let names = found.value.general_names.iter();
            names.filter_map(name).collect()
        });
        let validity = certificate.validity();
        Ok(Described {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            names: names.unwrap_or_default(),
        })
    });
    each.collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = match <[u8; 4]>::try_from(*bytes) {
                Ok(four) => IpAddr::from(four),
                Err(_) => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
            };
            Some(address.to_string())
        }
        _ => None,
    }
}

/// The subject of a certificate in DER, as `CN=…, O=…`; `None` if it cannot be read.
pub fn subject(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.subject().to_string())
}
