//! Which route a request takes, as things stand now.

use http::HeaderMap;
use xxhash_rust::xxh3::xxh3_64;

use super::choose::routing_key;
use crate::api::Endpoint;
use crate::base::clock;
use crate::live::Snapshot;
use crate::plan::{Found, Route, Target, Unroutable};

/// Resolves `model` and chooses among the routes it leads to, once for all attempts. Requests with
/// the same routing key choose alike; the others by `chance`, which is any number. Pairs of workers
/// only generate: what `endpoint` asks for besides goes to them only where nobody else serves.
///
/// # Errors
/// [`Unroutable`] when nothing serves the name.
pub fn target<'a>(
    snapshot: &'a Snapshot,
    endpoint: Endpoint,
    model: Option<&'a str>,
    headers: &HeaderMap,
    chance: u64,
) -> Result<(Found<'a>, Target<'a>), Unroutable> {
    let routes = &snapshot.plan.routes;
    let found = routes.resolve(model)?;
    let draw = || routing_key(headers).map_or(chance, |key| xxh3_64(key.as_bytes()));
    let suits = |route: &Route| endpoint.generates() || !route.legs.is_pair();
    let target = routes.target(&found, draw, |route| {
        suits(route) && snapshot.can_take(route, clock::now())
    })?;
    Ok((found, target))
}
