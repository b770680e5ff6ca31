//! What a certificate says of itself.

use x509_parser::prelude::{FromDer, X509Certificate};

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

/// The subject of a certificate in DER, as `CN=…, O=…`; `None` if it cannot be read.
pub fn subject(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.subject().to_string())
}
