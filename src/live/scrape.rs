//! placeholder
use super::Live;
/// placeholder
pub fn render(_: &Live, _: std::time::Instant) -> String {
    String::new()
}
