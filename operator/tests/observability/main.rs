//! The alerts and the dashboard of the chart, as helm renders them: every metric that a query names is exported by the operator
//! or by the sidecar, and has the labels that the query uses. What is exported is read from their own registries.

#![allow(clippy::unwrap_used, reason = "a test")]

mod exported;
mod query;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use exported::{Exported, Exporter};
use query::Query;

/// Labels that Prometheus gives to all that it collects by a PodMonitor.
const OF_TARGETS: [&str; 6] = ["namespace", "pod", "container", "endpoint", "job", "instance"];

/// What helm makes of the chart with everything turned on.
fn rendered() -> Vec<Value> {
    let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/brainy-operator");
    let on = ["podMonitor", "prometheusRule", "dashboard"].map(|name| format!("metrics.{name}.enabled=true")).join(",");
    let output = Command::new("helm")
        .args(["template", "brainy", "--kube-version", "1.35.0", "--set", &on])
        .arg(chart)
        .output()
        .expect("helm is needed: e2e/cluster/tools.sh helm brings it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(|one| Value::deserialize(one).unwrap()).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn alerts(objects: &[Value]) -> Vec<(String, String)> {
    let groups =
        of_kind(objects, "PrometheusRule").into_iter().flat_map(|rule| rule["spec"]["groups"].as_array().unwrap());
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(|rule| (text(&rule["alert"]), text(&rule["expr"]))).collect()
}

fn dashboard(objects: &[Value]) -> Value {
    let shown =
        of_kind(objects, "ConfigMap").into_iter().find(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1");
    serde_json::from_str(shown.unwrap()["data"]["brainy.json"].as_str().unwrap()).unwrap()
}

fn queries_of(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap();
        targets.iter().map(|target| (text(&panel["title"]), text(&target["expr"])))
    });
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let variables = variables.filter(|variable| variable["type"] == "query");
    panels.chain(variables.map(|variable| (text(&variable["name"]), text(&variable["query"])))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Labels that the PodMonitor of the nodes gives beside the usual ones.
fn relabelled(objects: &[Value]) -> BTreeSet<String> {
    let monitors = of_kind(objects, "PodMonitor");
    let nodes = monitors.iter().find(|monitor| text(&monitor["metadata"]["name"]).ends_with("-nodes"));
    let relabelings = nodes.unwrap()["spec"]["podMetricsEndpoints"][0]["relabelings"].as_array().unwrap();
    relabelings.iter().map(|one| text(&one["targetLabel"])).collect()
}

/// What is wrong with a query; nothing, if all is well.
fn wrong(query: &str, exported: &Exported, of_nodes: &BTreeSet<String>) -> Vec<String> {
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(why) => return vec![why],
    };
    let labels_of = |metric: &str| {
        let (exporter, own) = exported.labels(metric)?;
        let mut labels: BTreeSet<String> = own.iter().cloned().chain(OF_TARGETS.map(str::to_owned)).collect();
        if exporter == Exporter::Sidecar {
            labels.extend(of_nodes.iter().cloned());
        }
        Some(labels)
    };
    let mut wrong = Vec::new();
    let mut all = BTreeSet::new();
    for (metric, matched) in &query.metrics {
        let Some(labels) = labels_of(metric) else {
            wrong.push(format!("nobody exports {metric}"));
            continue;
        };
        wrong.extend(matched.difference(&labels).map(|label| format!("{metric} has no label {label}")));
        all.extend(labels);
    }
    if query.metrics.is_empty() {
        wrong.push("it names no metric".into());
    }
    wrong.extend(query.grouped.difference(&all).map(|label| format!("no metric of it has a label {label}")));
    wrong
}

#[test]
fn every_query_of_alerts_and_dashboard_names_metrics_and_labels_that_are_there() {
    let objects = rendered();
    let (exported, of_nodes) = (Exported::now(), relabelled(&objects));
    let (alerts, shown) = (alerts(&objects), queries_of(&dashboard(&objects)));
    assert!(alerts.len() >= 10 && shown.len() >= 15, "{} alerts, {} queries", alerts.len(), shown.len());
    let found: Vec<String> = alerts
        .iter()
        .chain(&shown)
        .flat_map(|(name, query)| {
            let found = wrong(query, &exported, &of_nodes);
            found.into_iter().map(move |why| format!("{name}: {why}"))
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_label_that_an_alert_speaks_of_survives_its_query() {
    let objects = rendered();
    let groups = of_kind(&objects, "PrometheusRule")[0]["spec"]["groups"].as_array().unwrap().clone();
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        let grouped = Query::parse(rule["expr"].as_str().unwrap()).unwrap().grouped;
        for words in rule["annotations"].as_object().unwrap().values() {
            for part in words.as_str().unwrap().split("$labels.").skip(1) {
                let label: String = part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                assert!(grouped.contains(&label), "{}: {label}", rule["alert"]);
            }
        }
    }
}

#[test]
fn the_nodes_are_asked_at_the_port_where_the_sidecar_answers() {
    let objects = rendered();
    let to = format!("$1:{}", brainy_kubernetes::names::METRICS_PORT);
    let nodes = of_kind(&objects, "PodMonitor").into_iter().any(|monitor| {
        let relabelings = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"].as_array();
        relabelings.is_some_and(|all| all.iter().any(|one| one["replacement"] == to.as_str()))
    });
    assert!(nodes, "no PodMonitor leads to {to}");
}

#[test]
fn a_wrong_query_is_found_out() {
    let (exported, of_nodes) = (Exported::now(), BTreeSet::from(["cluster".to_owned()]));
    let found = |query| wrong(query, &exported, &of_nodes);
    assert_eq!(found("sum by (pod, cluster) (rate(brainy_requests_total{operation=\"get\"}[5m])) > 0"), [""; 0]);
    for (query, part) in [
        ("brainy_request_total", "nobody exports brainy_request_total"),
        ("brany_requests_total > 1", "nobody exports brany_requests_total"),
        ("rate(brainy_requests_total{op=\"get\"}[5m])", "brainy_requests_total has no label op"),
        ("sum by (zone) (brainy_ready)", "no metric of it has a label zone"),
        ("brainy_operator_leader{cluster=\"c\"}", "has no label cluster"),
        ("smu(brainy_ready)", "smu"),
        ("sum(brainy_ready", "not closed"),
        ("1 > 0", "names no metric"),
    ] {
        let why = found(query).join("; ");
        assert!(why.contains(part), "{query}: {why}");
    }
}
