//! The templates, and the policy that goes with them.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, Value, context};
use sha2::{Digest as _, Sha256};

use super::view::View;

const STYLE: &str = include_str!("console.css");
const SCRIPT: &str = include_str!("console.js");

/// The name ends in `.html` so that every value is escaped.
const PAGE: &str = "page.html";
const LIVE: &str = "live.html";

/// Turns what is shown into HTML.
pub(super) type Render = fn(&View) -> Result<String, Error>;

/// The `content-security-policy` of the page.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT),
    )
});

static TEMPLATES: LazyLock<Result<Environment<'static>, String>> = LazyLock::new(|| {
    let mut all = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    all.set_syntax(syntax.map_err(|error| error.to_string())?);
    for (name, text) in [
        (PAGE, include_str!("page.html")),
        (LIVE, include_str!("live.html")),
    ] {
        all.add_template(name, text)
            .map_err(|error| error.to_string())?;
    }
    Ok(all)
});

/// The whole page.
///
/// # Errors
/// A template is broken.
pub(super) fn whole(view: &View) -> Result<String, Error> {
    let live = Value::from_safe_string(part(view)?);
    let given = context! {
        title => view.title.clone(),
        style => Value::from_safe_string(STYLE.to_owned()),
        script => Value::from_safe_string(SCRIPT.to_owned()),
        live,
    };
    rendered(PAGE, given)
}

/// What changes.
///
/// # Errors
/// A template is broken.
pub(super) fn part(view: &View) -> Result<String, Error> {
    rendered(LIVE, Value::from(minijinja::value::Serde(view)))
}

fn rendered(name: &str, given: Value) -> Result<String, Error> {
    let broken = |error: &String| Error::new(minijinja::ErrorKind::SyntaxError, error.clone());
    let templates = TEMPLATES.as_ref().map_err(broken)?;
    templates.get_template(name)?.render(given)
}

#[cfg(test)]
mod tests {
    use super::super::view;
    use super::*;
    use crate::api::overview::{
        Config, Engine, Failure, Model, Overview, Point, Pool, Quantiles, Rejected, Route, Span,
        Worker,
    };

    const HOSTILE: &str = "<script>alert(1)</script>\"'&";

    fn hostile() -> Overview {
        let evil = || HOSTILE.to_owned();
        Overview {
            time: 1_700_000_000_000,
            version: evil(),
            started: 1_699_990_000_000,
            phase: evil(),
            config: Config {
                file: evil(),
                sha256: evil(),
                trigger: evil(),
                rejected: Some(Rejected {
                    sha256: evil(),
                    diagnostics: vec![evil()],
                    ..Rejected::default()
                }),
                ..Config::default()
            },
            spans: vec![Span {
                seconds: 10.0,
                covered: 10.0,
                duration: Some(Quantiles::default()),
                ..Span::default()
            }],
            points: vec![Point::default(); 3],
            pools: vec![Pool {
                name: evil(),
                drain: true,
                workers: vec![Worker {
                    id: evil(),
                    url: evil(),
                    role: evil(),
                    runtime: evil(),
                    source: evil(),
                    health: evil(),
                    reason: evil(),
                    breaker: evil(),
                    engine: Some(Engine {
                        running: 1,
                        waiting: 2,
                        usage: Some(0.5),
                    }),
                    models: vec![evil()],
                    ..Worker::default()
                }],
            }],
            models: vec![Model {
                name: evil(),
                aliases: vec![evil()],
                routes: vec![Route {
                    pool: evil(),
                    model: evil(),
                    policy: evil(),
                    ..Route::default()
                }],
                fallback: vec![evil()],
                mirror: evil(),
                degraded: evil(),
                ..Model::default()
            }],
            failures: vec![Failure {
                request_id: evil(),
                path: evil(),
                model: evil(),
                pool: evil(),
                worker: evil(),
                outcome: evil(),
                code: evil(),
                ..Failure::default()
            }],
            ..Overview::default()
        }
    }

    #[test]
    fn nothing_that_is_shown_becomes_markup() {
        let html = whole(&view::of(&hostile())).unwrap();
        assert!(html.contains("&lt;script&gt;alert(1)&lt;"), "{html}");
        assert!(!html.contains("<script>alert"), "{html}");
        assert!(!html.contains("</script>\"'"), "{html}");
        assert_eq!(html.matches("<script").count(), 1);
        assert_eq!(html.matches("<style").count(), 1);
        // The policy would keep them from working.
        for inline in [" style=", " onclick=", "javascript:"] {
            assert!(!html.contains(inline), "{inline}");
        }
    }

    #[test]
    fn a_gateway_that_has_nothing_yet_is_shown_too() {
        let html = whole(&view::of(&Overview::default())).unwrap();
        assert!(html.contains("No workers"), "{html}");
        // Nothing is served, which is not as it should be.
        assert!(html.contains("<section class=\"lead warn\""), "{html}");
    }

    #[test]
    fn what_the_policy_names_stands_in_the_page_as_it_is() {
        let html = whole(&view::of(&Overview::default())).unwrap();
        assert!(html.contains(&format!("<style>{STYLE}</style>")));
        assert!(html.contains(&format!("<script>{SCRIPT}</script>")));
    }
}
