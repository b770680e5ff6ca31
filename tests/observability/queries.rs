//! Every query of the dashboard and of the manual finds data in a Prometheus that has watched a busy
//! gateway.

use serde_json::Value;
use smg::telemetry::metrics::Metric;

use crate::bustle::{Bustle, ODD_NAMES, PATIENCE};
use crate::prometheus::{Job, Prometheus, families_of, hurried, tool};

const DASHBOARD: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/packaging/grafana/smg-dashboard.json"
);
const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/promql/manual.promql");

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(DASHBOARD).unwrap()).unwrap()
}

/// The panels that ask something, with their queries.
fn panels(dashboard: &Value) -> Vec<(String, Vec<String>)> {
    let panels = dashboard["panels"].as_array().unwrap();
    let asking = panels.iter().filter(|panel| panel["type"] != "row");
    asking
        .map(|panel| {
            let title = panel["title"].as_str().unwrap().to_owned();
            let targets = panel["targets"].as_array().unwrap();
            let queries = targets
                .iter()
                .map(|target| target["expr"].as_str().unwrap().to_owned())
                .collect();
            (title, queries)
        })
        .collect()
}

/// What Grafana makes of a query when every variable is at `All`.
fn filled_in(query: &str) -> String {
    let mut query = hurried(query);
    for variable in ["$instance", "$model", "$worker"] {
        query = query.replace(variable, ".*");
    }
    assert!(!query.contains('$'), "an unknown variable: {query}");
    query
}

/// The queries of the manual; of an alert, what it compares.
fn manual() -> Vec<String> {
    let text = std::fs::read_to_string(MANUAL).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(hurried).collect()
}

/// Without the threshold at the end.
fn compared(alert: &str) -> &str {
    [" > ", " == "]
        .iter()
        .find_map(|sign| {
            let (left, right) = alert.rsplit_once(sign)?;
            right.parse::<f64>().is_ok().then_some(left)
        })
        .unwrap_or(alert)
}

#[test]
fn the_dashboard_is_in_order() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 38);
    assert_eq!(dashboard["uid"], "smg");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["datasource", "instance", "model", "worker"]);
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids: Vec<u64> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    let mut taken = std::collections::BTreeMap::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        if panel["type"] != "row" {
            assert!(
                panel["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{title}"
            );
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string()
                    || panel["type"] == "state-timeline",
                "{title}"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        }
        let place = &panel["gridPos"];
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| place[side].as_u64().unwrap());
        assert!(x + w <= 24, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            let other = taken.insert(cell, title);
            assert!(other.is_none(), "{title} lies on {other:?}");
        }
    }
}

#[test]
fn every_query_names_families_that_exist() {
    let dashboard = dashboard();
    let mut queries: Vec<String> = panels(&dashboard)
        .into_iter()
        .flat_map(|(_, queries)| queries)
        .collect();
    queries.extend(manual());
    for query in &queries {
        let families = families_of(query);
        assert!(!families.is_empty(), "{query}");
        for family in families {
            let known = Metric::ALL.iter().any(|metric| metric.name() == family);
            if !known && is_awaited(family) {
                continue;
            }
            assert!(known, "`{family}` of {query}");
        }
    }
    // And the other way round: whatever is measured can be looked at.
    let shown: Vec<&str> = queries
        .iter()
        .flat_map(|query| families_of(query))
        .collect();
    let unseen: Vec<&str> = Metric::ALL
        .iter()
        .map(|metric| metric.name())
        .filter(|name| !shown.contains(name) && !UNSEEN.contains(name))
        .collect();
    assert!(unseen.is_empty(), "on no panel: {unseen:?}");
}

/// Families of which the busy gateway shows nothing.
fn is_awaited(family: &str) -> bool {
    ["smg_tenant_", "smg_auth_", "smg_tls_"]
        .iter()
        .any(|start| family.starts_with(start))
}

/// Families that say in other words what a panel shows already, or serve a closer look.
const UNSEEN: &[&str] = &[
    "smg_cache_tree_tenants",
    "smg_cache_tree_tokens",
    "smg_config_last_reload_success_timestamp_seconds",
    "smg_config_oldest_snapshot_age_seconds",
    "smg_facts_updates_total",
    "smg_route_index_blocks",
    "smg_tokio_worker_parks_total",
    "smg_tokio_workers",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_panel_is_empty_and_the_manuals_queries_answer() {
    let Some(program) = tool("prometheus") else {
        return;
    };
    let bustle = Bustle::start().await;
    let jobs = [Job {
        name: "smg",
        targets: vec![bustle.smg.address("metrics")],
    }];
    let prometheus = Prometheus::start(&program, &jobs, None).await;
    let mut unanswered: Vec<(String, String)> = Vec::new();
    for (title, queries) in panels(&dashboard()) {
        for query in queries {
            if families_of(&query).into_iter().any(is_awaited) {
                continue;
            }
            unanswered.push((title.clone(), filled_in(&query)));
        }
    }
    for query in manual() {
        unanswered.push(("the manual".to_owned(), compared(&query).to_owned()));
    }
    for name in ODD_NAMES {
        let name = serde_json::to_string(name).unwrap();
        let query = format!("smg_router_requests_total{{model={name}}}");
        unanswered.push(("an odd name".to_owned(), query));
    }
    let answered = tokio::time::timeout(PATIENCE, async {
        while !unanswered.is_empty() {
            let mut left = Vec::new();
            for (title, query) in &unanswered {
                if prometheus.query(query).await.is_empty() {
                    left.push((title.clone(), query.clone()));
                }
            }
            unanswered = left;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    })
    .await;
    assert!(answered.is_ok(), "without data: {unanswered:#?}");
}
