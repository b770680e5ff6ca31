//! From the name that a client sends to the workers that may answer.

use std::sync::Arc;

use ahash::AHashMap;
use serde::{Serialize, Serializer};

use super::destination::{Destination, DestinationIx, Share};
use super::pool::{PoolIx, Retry, Timeouts};
use super::ring::Ring;
use super::worker::{Role, WorkerIx};
use crate::config::spec::Policy;

/// Index of a route in the plan it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RouteIx(pub u32);

/// How one model, or every name under one glob, is served by one pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Route {
    /// Name that metrics carry: the model, or `unknown` where the name is the client's own.
    pub label: Arc<str>,
    /// The model entry whose policy state this route shares: a declared name or glob, an
    /// advertised name, or `*`.
    pub entry: Arc<str>,
    /// Pool whose settings are in force.
    pub pool: PoolIx,
    /// Whom a request needs: one worker, or one for each leg.
    pub legs: Legs,
    /// Attempts.
    pub retry: Retry,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Whether only copies come here, whose answers nobody sees.
    pub copies: bool,
}

/// Whom a request needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Legs {
    /// One worker.
    One(Leg),
    /// A worker that reads the prompt, and one that generates.
    Pair {
        /// Reads the prompt.
        prefill: Leg,
        /// Generates.
        decode: Leg,
    },
}

impl Legs {
    /// The legs: the only one, or prefill and then decode.
    pub fn iter(&self) -> impl Iterator<Item = &Leg> {
        let (first, second) = match self {
            Self::One(leg) => (leg, None),
            Self::Pair { prefill, decode } => (prefill, Some(decode)),
        };
        std::iter::once(first).chain(second)
    }

    /// Every worker that may be chosen, leg by leg.
    pub fn candidates(&self) -> impl Iterator<Item = WorkerIx> {
        self.iter().flat_map(|leg| leg.candidates.iter().copied())
    }

    /// The leg of `role`.
    pub fn get(&self, role: Role) -> Option<&Leg> {
        self.iter().find(|leg| leg.role == role)
    }

    /// The leg whose answer the client gets.
    pub fn answering(&self) -> &Leg {
        match self {
            Self::One(leg) | Self::Pair { decode: leg, .. } => leg,
        }
    }

    /// Whether a request needs two workers.
    pub const fn is_pair(&self) -> bool {
        matches!(self, Self::Pair { .. })
    }
}

/// Workers among which one is chosen, and how.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Leg {
    /// What they do.
    pub role: Role,
    /// Workers that serve the model, by URL.
    pub candidates: Vec<WorkerIx>,
    /// Chooses among them.
    pub policy: Policy,
    /// Where keys belong among all workers of the leg, whether they serve the model or not; made
    /// only for policies that look at it.
    #[serde(skip)]
    pub ring: Option<Arc<Ring>>,
    /// Whether a routing key stays with its worker, whatever the policy.
    pub sticky: bool,
}

/// Every route, and the ways to find one.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Routes {
    /// The routes.
    pub all: Vec<Route>,
    /// What names lead to: the routes of one model.
    pub destinations: Vec<Destination>,
    /// Names and aliases to the canonical name and its destination.
    #[serde(serialize_with = "sorted")]
    pub names: AHashMap<Arc<str>, Named>,
    /// Globs, longest first.
    pub globs: Vec<Glob>,
    /// Takes a name that nothing else knows, where workers serve any model.
    pub any: Option<DestinationIx>,
    /// Takes a request without a model: set while exactly one model is served.
    pub sole: Option<Sole>,
    /// What `GET /v1/models` lists, sorted by id.
    pub listed: Vec<Listed>,
}

/// The only model that is served.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sole {
    /// Its name; `None` where it is any that a client may choose.
    pub canonical: Option<Arc<str>>,
    /// Who serves it.
    pub destination: DestinationIx,
}

/// Where a known name leads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Named {
    /// The name that the worker is asked for.
    pub canonical: Arc<str>,
    /// Who serves it.
    pub destination: DestinationIx,
}

/// A declared model name with wildcards.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Glob {
    /// As written; `*` stands for any run of characters, `?` for one.
    pub pattern: Arc<str>,
    /// Who serves the names that nobody advertises.
    pub destination: DestinationIx,
}

/// One line of `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Listed {
    /// The name a client may send.
    pub id: Arc<str>,
    /// The canonical name behind it.
    pub root: Arc<str>,
    /// Context length in tokens where a worker reports it.
    pub max_model_len: Option<u64>,
}

/// What a request's model name means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found<'a> {
    /// Who serves it.
    pub destination: DestinationIx,
    /// The name that the client sent, if any.
    pub asked: Option<&'a str>,
    /// The name of the model, where it is a known one and the client wrote a name.
    pub canonical: Option<&'a Arc<str>>,
}

impl<'a> Found<'a> {
    /// The name to send instead of the client's, where it was an alias.
    pub fn rename(&self) -> Option<&'a Arc<str>> {
        self.differs(self.canonical)
    }

    /// What a worker is asked for: `rename`, else the client's own name, else, where the client
    /// named none, that of the route.
    pub fn model(&self, rename: Option<&Arc<str>>, route: &Route) -> Arc<str> {
        match (rename, self.asked) {
            (Some(name), _) => Arc::clone(name),
            (None, Some(name)) if !name.is_empty() && *name != *route.label => name.into(),
            (None, _) => Arc::clone(&route.label),
        }
    }

    fn differs(&self, name: Option<&'a Arc<str>>) -> Option<&'a Arc<str>> {
        name.filter(|name| self.asked != Some(&***name))
    }
}

/// Where one request goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target<'a> {
    /// The route to take.
    pub route: RouteIx,
    /// The name to send instead of the client's, where the worker knows the model by another.
    pub rename: Option<&'a Arc<str>>,
}

/// Why a request has no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unroutable {
    /// The name is neither declared nor advertised.
    Unknown,
    /// No name was given and not exactly one model is served.
    Missing,
}

impl Routes {
    /// Resolves `model`: an exact name, an alias, the longest glob, a worker that serves any model.
    /// An absent or empty name, or `unknown`, means the only model there is.
    ///
    /// # Errors
    /// [`Unroutable`] when nothing serves the name.
    pub fn resolve<'a>(&'a self, model: Option<&'a str>) -> Result<Found<'a>, Unroutable> {
        let name = model.unwrap_or_default();
        if let Some(named) = self.names.get(name) {
            return Ok(Found {
                destination: named.destination,
                asked: model,
                canonical: Some(&named.canonical),
            });
        }
        if name.is_empty() || name == "unknown" {
            let sole = self.sole.as_ref().ok_or(Unroutable::Missing)?;
            return Ok(Found {
                destination: sole.destination,
                asked: model,
                // Workers take a request without a name for theirs, but no name that is not.
                canonical: model.and(sole.canonical.as_ref()),
            });
        }
        let glob = self.globs.iter().find(|glob| matches(&glob.pattern, name));
        let destination = glob
            .map(|glob| glob.destination)
            .or(self.any)
            .ok_or(Unroutable::Unknown)?;
        Ok(Found {
            destination,
            asked: model,
            canonical: None,
        })
    }

    /// The model that was meant by `found`: its own name, whatever it was called; empty where a client
    /// named none and none is known.
    pub fn meant<'a>(&'a self, found: &Found<'a>) -> &'a str {
        let sole = || {
            self.sole
                .as_ref()
                .and_then(|sole| sole.canonical.as_deref())
        };
        match (found.canonical, found.asked) {
            (Some(name), _) => name,
            (None, None | Some("" | "unknown")) => sole().unwrap_or_default(),
            (None, Some(asked)) => asked,
        }
    }

    /// Chooses among the routes of what was found: by weight among those that `can_serve`, else
    /// those of the first fallback of which some route can. Where none can, the model's own, so
    /// that the refusal is about the model that was asked for. Equal draws choose alike; `draw` is
    /// not asked for where there is nothing to choose.
    ///
    /// # Errors
    /// [`Unroutable`] when `found` comes from another plan.
    pub fn target<'a>(
        &'a self,
        found: &Found<'a>,
        draw: impl FnOnce() -> u64,
        can_serve: impl Fn(&Route) -> bool,
    ) -> Result<Target<'a>, Unroutable> {
        let own = self
            .destination(found.destination)
            .ok_or(Unroutable::Unknown)?;
        let to = |share: &'a Share, model: Option<&'a Arc<str>>| Target {
            route: share.route,
            rename: found.differs(share.model.as_ref().or(model)),
        };
        if let ([only], []) = (&*own.shares, &*own.fallback) {
            return Ok(to(only, found.canonical));
        }
        let draw = draw();
        let serves = |share: &Share| {
            let route = self.all.get(share.route.0 as usize);
            route.is_some_and(&can_serve)
        };
        if let Some(share) = own.drawn(draw, serves) {
            return Ok(to(share, found.canonical));
        }
        for other in &own.fallback {
            let destination = self.destination(other.destination);
            if let Some(share) = destination.and_then(|there| there.drawn(draw, serves)) {
                return Ok(to(share, Some(&other.model)));
            }
        }
        own.drawn(draw, |_| true)
            .map(|share| to(share, found.canonical))
            .ok_or(Unroutable::Unknown)
    }

    /// The destination at `ix`.
    pub fn destination(&self, ix: DestinationIx) -> Option<&Destination> {
        self.destinations.get(ix.0 as usize)
    }

    /// The routes of a destination that clients' requests take, in the order of the file.
    pub fn of<'a>(&'a self, destination: &'a Destination) -> impl Iterator<Item = &'a Route> {
        let shares = destination.shares.iter();
        shares.filter_map(|share| self.all.get(share.route.0 as usize))
    }
}

/// Whether `name` contains a wildcard.
pub fn is_glob(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// Whether `pattern` covers the whole of `name`. Linear in practice: backtracks to the last `*`
/// only.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    let mut star: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let rest_name = name.clone();
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((pattern.clone(), rest_name.clone()));
                name = rest_name;
            }
            (Some('?'), Some(_)) => {}
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => {
                let Some((after, mut from)) = star.take() else {
                    return false;
                };
                if from.next().is_none() {
                    return false;
                }
                pattern = after.clone();
                name = from.clone();
                star = Some((after, from));
            }
        }
    }
}

fn sorted<S: Serializer>(
    names: &AHashMap<Arc<str>, Named>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut entries: Vec<_> = names.iter().collect();
    entries.sort_by(|a, b| a.0.cmp(b.0));
    serializer.collect_map(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name, expected) in [
            ("llama-*", "llama-3", true),
            ("llama-*", "llama-", true),
            ("llama-*", "my-llama-3", false),
            ("*-chat", "llama-chat", true),
            ("*-chat", "llama-chat-2", false),
            ("a*b*c", "axxbxbyc", true),
            ("a*b*c", "axxbxby", false),
            ("gpt-?", "gpt-4", true),
            ("gpt-?", "gpt-40", false),
            ("*", "", true),
            ("meta/*", "meta/llama/3", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} against {name}");
        }
    }

    #[test]
    fn a_long_hostile_name_costs_no_exponential_time() {
        let name = "a".repeat(20_000);
        assert!(!matches("*a*a*a*a*a*b", &name));
    }
}
