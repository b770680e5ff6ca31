//! `[[tests]]`: a request, and where it must lead.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[[tests]]`: a request, and where it must lead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// What it shows.
    ///
    /// Unit: string. Default: none, required. Range: not empty, distinct. Reload: live.
    /// Printed when it fails.
    pub name: String,

    /// The request.
    ///
    /// Unit: table. Default: none, required. Range: any. Reload: live.
    /// It is routed in a gateway that has just started, whose declared workers are all ready.
    pub request: Request,

    /// What must come of it.
    ///
    /// Unit: table. Default: none, required. Range: at least one key. Reload: live.
    /// Every key that is written must hold.
    pub expect: Expect,
}

/// `tests[].request`: a request of a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The path that is asked for.
    ///
    /// Unit: path. Default: none, required. Range: begins with `/`. Reload: live.
    /// Such as `/v1/chat/completions`.
    pub path: String,

    /// The method.
    ///
    /// Unit: string. Default: POST. Range: any. Reload: live.
    /// In upper case.
    #[serde(default = "post", skip_serializing_if = "is_post")]
    pub method: String,

    /// Headers of the request.
    ///
    /// Unit: table of strings. Default: {}. Range: any keys. Reload: live.
    /// A content type of JSON is added where there is none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,

    /// The body.
    ///
    /// Unit: table. Default: {}. Range: any keys. Reload: live.
    /// Sent as JSON.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub body: serde_json::Map<String, serde_json::Value>,

    /// The listener that it comes in at.
    ///
    /// Unit: name of a listener. Default: main. Range: a defined listener. Reload: live.
    /// It must serve the path.
    #[serde(default = "main", skip_serializing_if = "is_main")]
    pub listener: String,

    /// The tenant that asks.
    ///
    /// Unit: name of a tenant. Default: none. Range: a defined tenant. Reload: live.
    /// Without it somebody who may come in, and is no tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// `tests[].expect`: what must come of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// The model that the worker is asked for.
    ///
    /// Unit: string. Default: not looked at. Range: any. Reload: live.
    /// Behind aliases, splits and fallbacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,

    /// The pool.
    ///
    /// Unit: name of a pool. Default: not looked at. Range: a defined pool. Reload: live.
    /// Behind splits and fallbacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,

    /// The worker.
    ///
    /// Unit: URL. Default: not looked at. Range: a worker of the file. Reload: live.
    /// In a pool with legs that of the decode leg.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,

    /// Workers of which it must be one.
    ///
    /// Unit: list of URLs. Default: not looked at. Range: workers of the file. Reload: live.
    /// For policies that may choose any of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_in: Option<Vec<String>>,

    /// The policy that chooses.
    ///
    /// Unit: word. Default: not looked at. Range: as `routing.policy`. Reload: live.
    /// In a pool with legs that of the decode leg.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<super::PolicyName>,

    /// The status of a refusal, or 200.
    ///
    /// Unit: number. Default: not looked at. Range: 100 to 599. Reload: live.
    /// 200 means that a worker would be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub status: Option<u16>,

    /// The code of a refusal.
    ///
    /// Unit: word. Default: not looked at. Range: any. Reload: live.
    /// Such as `model_not_found`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

fn post() -> String {
    "POST".to_owned()
}

fn is_post(method: &str) -> bool {
    method == "POST"
}

fn main() -> String {
    "main".to_owned()
}

fn is_main(listener: &str) -> bool {
    listener == "main"
}
