//! For tests of `serve`: a gateway without a configuration, whose snapshot they share.

use std::sync::Arc;

use crate::base::clock;
use crate::config::Spec;
use crate::live::{Live, Prepared, Snapshot, Stamp};
use crate::plan::{Facts, compile};
use crate::state::Cells;

/// A gateway that serves nothing.
#[expect(clippy::disallowed_methods, reason = "the test is its own writer")]
pub(crate) fn live() -> Arc<Live> {
    let spec: Spec = toml::from_str("version = 1\n").unwrap();
    let stamp = Stamp {
        id: 1,
        generation: 1,
        sha256: "".into(),
    };
    let plan = compile(&spec, &Facts::default());
    let snapshot = Snapshot::bind(plan, &Cells::default(), None, stamp, clock::now());
    Arc::new(Live::new(Prepared::new(snapshot)))
}
