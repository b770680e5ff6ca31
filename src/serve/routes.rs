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
    /// `POST /admin/reload`
    Reload,
    /// `GET /admin/config`
    Config,
    /// `GET /admin/config/status`
    ConfigStatus,
    /// `GET /admin/snapshots`
    Snapshots,
    /// `POST /admin/explain`
    Explain,
    /// `GET /metrics`
    Metrics,
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

/// A path that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    /// The route template, as metrics show it.
    pub(crate) template: &'static str,
    /// Methods it takes, as an `allow` header.
    pub(crate) allow: &'static str,
    /// Where it leads.
    pub(crate) goal: Goal<'a>,
    /// Whether it belongs to the control plane.
    pub(crate) control_plane: bool,
}

impl Found<'_> {
    /// Whether `method` may be used. HEAD goes wherever GET does.
    pub(crate) fn takes(&self, method: &Method) -> bool {
        match self.allow {
            "POST" => method == Method::POST,
            _ => method == Method::GET || method == Method::HEAD,
        }
    }
}

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
    "/admin/snapshots",
    "/admin/explain",
    "/metrics",
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
            control_plane: true,
            ..found
        });
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
    Some(post(endpoint.path(), Goal::Inference(endpoint)))
}

fn information(path: &str) -> Option<Found<'_>> {
    Some(match path {
        "/v1/models" => get("/v1/models", Goal::Models),
        "/health_generate" => get("/health_generate", Goal::Ask(Question::HealthGenerate)),
        "/get_server_info" | "/server_info" => {
            get("/get_server_info", Goal::Ask(Question::ServerInfo))
        }
        "/get_model_info" | "/model_info" => get("/get_model_info", Goal::Ask(Question::ModelInfo)),
        "/engine_metrics" => get("/engine_metrics", Goal::EngineMetrics),
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
        "/workers" => get("/workers", Goal::Workers),
        "/admin/reload" => post("/admin/reload", Goal::Reload),
        "/admin/config" => get("/admin/config", Goal::Config),
        "/admin/config/status" => get("/admin/config/status", Goal::ConfigStatus),
        "/admin/snapshots" => get("/admin/snapshots", Goal::Snapshots),
        "/admin/explain" => post("/admin/explain", Goal::Explain),
        _ => {
            let id = path
                .strip_prefix("/workers/")
                .filter(|id| !id.is_empty() && !id.contains('/'))?;
            get("/workers/{id}", Goal::Worker(id))
        }
    })
}

fn get<'a>(template: &'static str, goal: Goal<'a>) -> Found<'a> {
    Found {
        template,
        allow: "GET, HEAD",
        goal,
        control_plane: false,
    }
}

fn post<'a>(template: &'static str, goal: Goal<'a>) -> Found<'a> {
    Found {
        template,
        allow: "POST",
        goal,
        control_plane: false,
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
    };

    #[test]
    fn aliases_share_the_template() {
        for (alias, template) in [
            ("/rerank", "/v1/rerank"),
            ("/server_info", "/get_server_info"),
            ("/model_info", "/get_model_info"),
            ("/v1/loads", "/get_loads"),
            ("/workers/abc", "/workers/{id}"),
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
    }

    #[test]
    fn head_goes_where_get_does() {
        assert!(find("/health", ALL).unwrap().takes(&Method::HEAD));
        assert!(!find("/generate", ALL).unwrap().takes(&Method::HEAD));
    }
}
