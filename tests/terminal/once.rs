//! `smg top` where there is no terminal, or one look is enough.

use std::time::Duration;

use crate::overviews::{OVERVIEW, Overviews};
use crate::support::smg::LISTENERS;
use crate::support::{Smg, eventually};
use crate::tools::{printed, smg};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn a_report_of_the_real_gateway() {
    let pool = "[[pools]]\nname = 'a'\nworkers = ['http://127.0.0.1:9']\nhealth.enabled = false\n\
                [[models]]\nname = 'm'\npool = 'a'\n";
    let smg = Smg::start(&format!("{LISTENERS}\n{pool}")).await;
    let url = format!("http://{}", smg.main());
    let wanted = [
        env!("CARGO_PKG_VERSION"),
        "generation 1",
        "127.0.0.1:9 ",
        "no recent failures",
    ];
    for args in [
        &["top", "--url", &url][..],
        &["top", "--once", "--url", &url],
    ] {
        let report = printed(args);
        for wanted in wanted {
            assert!(report.contains(wanted), "no `{wanted}`:\n{report}");
        }
    }
    let json = printed(&["top", "--format", "json", "--url", &url]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["config"]["generation"], 1);
    assert_eq!(json["pools"][0]["workers"][0]["url"], "http://127.0.0.1:9");
    // What was refused is told, with the reason.
    smg.rewrite(&format!("{LISTENERS}\n{pool}\noops = 1\n"));
    eventually(Duration::from_secs(20), async || {
        let report = printed(&["top", "--url", &url]);
        report.contains("refused ") && report.contains("error[unknown-key]")
    })
    .await;
}

#[test]
fn the_report_of_what_the_gateway_says() {
    let gateway = Overviews::start("127.0.0.1:0", 200, OVERVIEW);
    let report = printed(&["top", "--once", "--url", &gateway.url()]);
    assert_eq!(report, include_str!("../../fixtures/top/report.txt"));
    let json = printed(&["top", "--once", "--format", "json", "--url", &gateway.url()]);
    assert!(json.chars().all(|c| c == '\n' || !c.is_control()));
    let [said, wanted]: [serde_json::Value; 2] =
        [&json, OVERVIEW].map(|text| serde_json::from_str(text).unwrap());
    assert_eq!(said, wanted);
}

#[test]
fn without_figures_it_fails_and_says_why() {
    let address = {
        let gateway = Overviews::start("127.0.0.1:0", 200, OVERVIEW);
        gateway.address()
    };
    let url = format!("http://{address}");
    let output = smg(&["top", "--url", &url]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.starts_with("error: no gateway answers: http://"),
        "{said}"
    );
    for (status, body, wanted) in [
        (404, "{}", "error: the gateway has no overview"),
        (200, "[]", "error: the gateway has no overview"),
        (
            401,
            "{\"error\":{\"message\":\"a \\u001b[31mkey\\u009b\\nis needed\"}}",
            "error: the gateway answered 401: a ?[31mkey? is needed\n",
        ),
    ] {
        let gateway = Overviews::start("127.0.0.1:0", status, body);
        let output = smg(&["top", "--url", &gateway.url()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).starts_with(wanted), "{}", stderr(&output));
    }
    let output = smg(&["top", "--url", "gw"]);
    assert_eq!(output.status.code(), Some(2));
}
