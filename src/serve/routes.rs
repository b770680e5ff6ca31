//! Which path and method leads to which endpoint.

use http::Method;

use crate::api::Endpoint;
use crate::plan::Groups;

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal<'a> {
    /// An inference endpoint.
    Inference(Endpoint),
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{id}`
    Model(&'a str),
    /// A `GET` answered by the first healthy worker.
    Ask(Question),
    /// `GET /engine_metrics`
    EngineMetrics,
    /// `GET /liveness`, `GET /health`
    Alive,
    /// `GET /readiness`
    Ready,
    /// `POST /flush_cache`
    FlushCache,
    /// `GET /get_loads`, `GET /v1/loads`
    Loads,
    /// `GET /workers`
    Workers,
    /// `GET /workers/{id}`
    Worker(&'a str),
    /// `POST /workers`
    AddWorker,
    /// `PUT /workers/{id}`
    ReplaceWorker(&'a str),
    /// `PATCH /workers/{id}`
    PatchWorker(&'a str),
    /// `DELETE /workers/{id}`
    RemoveWorker(&'a str),
    /// `POST /admin/pools/{name}/drain`
    DrainPool(&'a str),
    /// `POST /admin/reload`
    Reload,
    /// `GET /admin/config`
    Config,
    /// `GET /admin/config/status`
    ConfigStatus,
    /// `GET /admin/overview`
    Overview,
    /// `GET /admin/snapshots`
    Snapshots,
    /// `POST /admin/explain`
    Explain,
    /// `GET /metrics`
    Metrics,
    /// `GET /` of a listener that serves the console
    ConsoleHome,
    /// `GET /console`
    Console,
    /// `GET /console/live`
    ConsoleLive,
}

impl<'a> Goal<'a> {
    /// The worker or pool that the path names, for the control plane.
    pub(crate) fn resource(&self) -> Option<&'a str> {
        match *self {
            Self::Worker(id)
            | Self::ReplaceWorker(id)
            | Self::PatchWorker(id)
            | Self::RemoveWorker(id)
            | Self::DrainPool(id) => Some(id),
            _ => None,
        }
    }
}

/// What a worker is asked on a client's behalf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// `GET /health_generate`
    HealthGenerate,
    /// `GET /get_server_info`
    ServerInfo,
    /// `GET /get_model_info`
    ModelInfo,
}

/// Who may ask for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Everybody.
    Public,
    /// Who may use the models.
    Inference,
    /// Who may enter the control plane.
    Control,
    /// Who may look at the console.
    Console,
    /// Everybody until any credential is configured, then who may use the models.
    InferenceOnceGuarded,
    /// Everybody until any credential is configured, then who may enter the control plane; a listener
    /// may settle it.
    ControlOnceGuarded,
}

/// A path that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    /// The route template, as metrics show it.
    pub(crate) template: &'static str,
    /// Methods it takes, as an `allow` header.
    pub(crate) allow: &'static str,
    /// Where its first method leads.
    first: Goal<'a>,
    /// Who may ask for it.
    pub(crate) class: Class,
}

impl<'a> Found<'a> {
    /// The inference endpoint that it is, whatever the method.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        match self.first {
            Goal::Inference(endpoint) => Some(endpoint),
            _ => None,
        }
    }

    /// Whether its answer to a tenant is its own although everybody may ask.
    pub(crate) fn knows_tenants(&self) -> bool {
        matches!(self.first, Goal::Models | Goal::Model(_))
    }

    /// Where `method` leads; `None` where it may not be used. HEAD goes wherever GET does.
    pub(crate) fn goal(&self, method: &Method) -> Option<Goal<'a>> {
        match (self.first, method) {
            (Goal::Workers, &Method::POST) => Some(Goal::AddWorker),
            (Goal::Worker(id), &Method::PUT) => Some(Goal::ReplaceWorker(id)),
            (Goal::Worker(id), &Method::PATCH) => Some(Goal::PatchWorker(id)),
            (Goal::Worker(id), &Method::DELETE) => Some(Goal::RemoveWorker(id)),
            (first, method) if self.allow == POST => (method == Method::POST).then_some(first),
            (first, method) => (method == Method::GET || method == Method::HEAD).then_some(first),
        }
    }
}

const POST: &str = "POST";
const GET: &str = "GET, HEAD";

/// Every template, for metrics; `other` stands for all that is unknown.
pub(crate) const TEMPLATES: &[&str] = &[
    "/v1/chat/completions",
    "/v1/completions",
    "/generate",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/classify",
    "/v1/models",
    "/v1/models/{id}",
    "/health_generate",
    "/get_server_info",
    "/get_model_info",
    "/engine_metrics",
    "/liveness",
    "/health",
    "/readiness",
    "/flush_cache",
    "/get_loads",
    "/workers",
    "/workers/{id}",
    "/admin/reload",
    "/admin/config",
    "/admin/config/status",
    "/admin/overview",
    "/admin/snapshots",
    "/admin/explain",
    "/admin/pools/{name}/drain",
    "/metrics",
    "/",
    "/console",
    "/console/live",
    OTHER,
];

/// The template of an unknown path.
pub(crate) const OTHER: &str = "other";

/// The route of `path` on a listener that serves `groups`. A group that is not served does not
/// exist there.
pub(crate) fn find(path: &str, groups: Groups) -> Option<Found<'_>> {
    if groups.inference
        && let Some(found) = inference(path)
    {
        return Some(found);
    }
    if groups.probes {
        match path {
            "/liveness" => return Some(get("/liveness", Goal::Alive)),
            "/health" => return Some(get("/health", Goal::Alive)),
            "/readiness" => return Some(get("/readiness", Goal::Ready)),
            _ => {}
        }
    }
    if groups.admin
        && let Some(found) = admin(path)
    {
        return Some(Found {
            class: Class::Control,
            ..found
        });
    }
    if groups.console
        && let Some(found) = console(path)
    {
        return Some(found);
    }
    (groups.metrics && path == "/metrics").then(|| get("/metrics", Goal::Metrics))
}

fn inference(path: &str) -> Option<Found<'_>> {
    let endpoint = match path {
        "/v1/chat/completions" => Endpoint::Chat,
        "/v1/completions" => Endpoint::Completions,
        "/generate" => Endpoint::Generate,
        "/v1/responses" => Endpoint::Responses,
        "/v1/embeddings" => Endpoint::Embeddings,
        "/v1/rerank" | "/rerank" => Endpoint::Rerank,
        "/v1/classify" => Endpoint::Classify,
        _ => return information(path),
    };
    Some(Found {
        class: Class::Inference,
        ..post(endpoint.path(), Goal::Inference(endpoint))
    })
}

fn information(path: &str) -> Option<Found<'_>> {
    Some(match path {
        "/v1/models" => get("/v1/models", Goal::Models),
        "/health_generate" => ask("/health_generate", Question::HealthGenerate),
        "/get_server_info" | "/server_info" => ask("/get_server_info", Question::ServerInfo),
        "/get_model_info" | "/model_info" => ask("/get_model_info", Question::ModelInfo),
        "/engine_metrics" => Found {
            class: Class::ControlOnceGuarded,
            ..get("/engine_metrics", Goal::EngineMetrics)
        },
        _ => {
            let id = path
                .strip_prefix("/v1/models/")
                .filter(|id| !id.is_empty())?;
            get("/v1/models/{id}", Goal::Model(id))
        }
    })
}

fn admin(path: &str) -> Option<Found<'_>> {
    Some(match path {
        "/flush_cache" => post("/flush_cache", Goal::FlushCache),
        "/get_loads" | "/v1/loads" => get("/get_loads", Goal::Loads),
        "/workers" => Found {
            allow: "GET, HEAD, POST",
            ..get("/workers", Goal::Workers)
        },
        "/admin/reload" => post("/admin/reload", Goal::Reload),
        "/admin/config" => get("/admin/config", Goal::Config),
        "/admin/config/status" => get("/admin/config/status", Goal::ConfigStatus),
        "/admin/overview" => get("/admin/overview", Goal::Overview),
        "/admin/snapshots" => get("/admin/snapshots", Goal::Snapshots),
        "/admin/explain" => post("/admin/explain", Goal::Explain),
        _ => return one(path),
    })
}

fn console(path: &str) -> Option<Found<'_>> {
    let found = match path {
        "/" => get("/", Goal::ConsoleHome),
        "/console" => get("/console", Goal::Console),
        "/console/live" => get("/console/live", Goal::ConsoleLive),
        _ => return None,
    };
    Some(Found {
        class: Class::Console,
        ..found
    })
}

/// A worker or a pool.
fn one(path: &str) -> Option<Found<'_>> {
    let is_name = |name: &&str| !name.is_empty() && !name.contains('/');
    if let Some(rest) = path.strip_prefix("/admin/pools/") {
        let name = rest.strip_suffix("/drain").filter(is_name)?;
        return Some(post("/admin/pools/{name}/drain", Goal::DrainPool(name)));
    }
    let id = path.strip_prefix("/workers/").filter(is_name)?;
    Some(Found {
        allow: "GET, HEAD, PUT, PATCH, DELETE",
        ..get("/workers/{id}", Goal::Worker(id))
    })
}

fn ask<'a>(template: &'static str, question: Question) -> Found<'a> {
    Found {
        class: Class::InferenceOnceGuarded,
        ..get(template, Goal::Ask(question))
    }
}

fn get<'a>(template: &'static str, first: Goal<'a>) -> Found<'a> {
    Found {
        template,
        allow: GET,
        first,
        class: Class::Public,
    }
}

fn post<'a>(template: &'static str, first: Goal<'a>) -> Found<'a> {
    Found {
        allow: POST,
        ..get(template, first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Groups = Groups {
        inference: true,
        admin: true,
        probes: true,
        metrics: true,
        console: true,
    };

    #[test]
    fn aliases_share_the_template() {
        for (alias, template) in [
            ("/rerank", "/v1/rerank"),
            ("/server_info", "/get_server_info"),
            ("/model_info", "/get_model_info"),
            ("/v1/loads", "/get_loads"),
            ("/workers/abc", "/workers/{id}"),
            ("/admin/pools/a%2Fb/drain", "/admin/pools/{name}/drain"),
            ("/v1/models/meta/llama", "/v1/models/{id}"),
        ] {
            assert_eq!(find(alias, ALL).unwrap().template, template);
        }
    }

    #[test]
    fn every_template_is_listed_for_metrics() {
        for path in TEMPLATES.iter().filter(|template| **template != OTHER) {
            let found = find(path, ALL).unwrap();
            assert!(TEMPLATES.contains(&found.template), "{path}");
        }
    }

    #[test]
    fn a_group_that_is_not_served_does_not_exist() {
        let none = Groups::default();
        for path in [
            "/metrics",
            "/workers",
            "/health",
            "/v1/models",
            "/v1/chat/completions",
            "/",
            "/console",
            "/console/live",
        ] {
            assert!(find(path, none).is_none(), "{path}");
        }
        assert!(
            find(
                "/workers",
                Groups {
                    inference: true,
                    ..none
                }
            )
            .is_none()
        );
    }

    #[test]
    fn a_trailing_slash_is_another_path() {
        assert!(find("/v1/chat/completions/", ALL).is_none());
        assert!(find("/workers/", ALL).is_none());
        assert!(find("/v1/models/", ALL).is_none());
        assert!(find("/admin/pools//drain", ALL).is_none());
        assert!(find("/admin/pools/p", ALL).is_none());
    }

    #[test]
    fn head_goes_where_get_does() {
        let goal = |path, method| find(path, ALL).unwrap().goal(&method);
        assert_eq!(goal("/health", Method::HEAD), Some(Goal::Alive));
        assert_eq!(goal("/workers", Method::HEAD), Some(Goal::Workers));
        assert_eq!(goal("/generate", Method::HEAD), None);
    }

    #[test]
    fn a_path_takes_the_methods_that_it_says_and_no_others() {
        for path in TEMPLATES.iter().filter(|template| **template != OTHER) {
            let found = find(path, ALL).unwrap();
            for method in [
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
                Method::OPTIONS,
                Method::TRACE,
            ] {
                let said = found.allow.split(", ").any(|said| said == method);
                assert_eq!(found.goal(&method).is_some(), said, "{method} {path}");
            }
        }
    }

    #[test]
    fn every_route_has_its_class() {
        for path in TEMPLATES.iter().filter(|template| **template != OTHER) {
            let expected = match *path {
                "/v1/models" | "/v1/models/{id}" | "/liveness" | "/health" | "/readiness"
                | "/metrics" => Class::Public,
                "/health_generate" | "/get_server_info" | "/get_model_info" => {
                    Class::InferenceOnceGuarded
                }
                "/engine_metrics" => Class::ControlOnceGuarded,
                "/flush_cache" | "/get_loads" => Class::Control,
                "/" | "/console" | "/console/live" => Class::Console,
                path if path.starts_with("/workers") || path.starts_with("/admin/") => {
                    Class::Control
                }
                _ => Class::Inference,
            };
            assert_eq!(find(path, ALL).unwrap().class, expected, "{path}");
        }
        for alias in ["/v1/loads", "/rerank", "/server_info", "/model_info"] {
            assert_ne!(find(alias, ALL).unwrap().class, Class::Public, "{alias}");
        }
    }
}
