//! `Snapshot` and `Live`, the only `ArcSwap`; the traits over which `serve` and `control` meet.
