//! What this binary is.

/// Its version.
pub(super) const SHORT: &str = env!("CARGO_PKG_VERSION");

/// Version, revision, build date, features and compiler, one per line. What the build was not told
/// is `unknown`.
pub(super) fn verbose() -> String {
    let known = |value: Option<&'static str>| value.unwrap_or("unknown");
    format!(
        "smg {SHORT}\nrevision {}\nbuild date {}\nfeatures {}\nrustc {}\n",
        known(option_env!("SMG_BUILD_REVISION")),
        known(option_env!("SMG_BUILD_DATE")),
        "none",
        known(option_env!("SMG_BUILD_RUSTC")),
    )
}
