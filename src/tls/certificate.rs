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
    let Ok(all) = certificates(pem) else {
        return Vec::new();
    };
    let parsed = all.first().map(|first| X509Certificate::from_der(first));
    let Some(Ok((_, certificate))) = parsed else {
        return Vec::new();
    };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives
        .iter()
        .flat_map(|found| &found.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        })
        .collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// The subject of a certificate in DER, as `CN=…, O=…`; `None` if it cannot be read.
pub fn subject(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.subject().to_string())
}
