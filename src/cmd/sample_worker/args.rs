//! The command line of the sample worker, which is also its configuration in a test.

use std::time::Duration;

use clap::ValueEnum;

use super::fault::parse_delay;

/// Which engine the worker looks like: its routes, names of metrics and shape of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// SGLang: /generate, /server_info, /model_info, /v1/loads, /flush_cache, metrics `sglang:…`.
    Sglang,
    /// vLLM: /version, /load, metrics `vllm:…`; an unknown model is answered with 404.
    Vllm,
}

/// Which of two workers that serve a request together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Disaggregation {
    /// Computes prompts, for others to fetch.
    Prefill,
    /// Fetches what has been computed, and generates.
    Decode,
}

/// A small OpenAI-compatible engine to try a gateway against.
///
/// It needs no model and no GPU: answers are plain words that follow from the prompt alone, so the
/// same prompt always gets the same answer. What a gateway looks at is real: streams keep a pace,
/// a bounded prefix cache decides `cached_tokens`, and load is reported the way engines do it.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Address or host name to listen on, without the port.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub host: String,

    /// Port to listen on; 0 takes a free one, which the line on stdout then names.
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub port: u16,

    /// Model name to serve; may be given more than once, the first is the default.
    #[arg(long = "model", value_name = "NAME", default_value = "sample")]
    pub models: Vec<String>,

    /// Engine to look like.
    #[arg(long, value_enum, default_value_t = Runtime::Sglang)]
    pub runtime: Runtime,

    /// Be one of two workers that serve a request together.
    ///
    /// They find each other the way the engine's do: SGLang's by `bootstrap_host`, `bootstrap_port`
    /// (the prefill worker's own port) and `bootstrap_room`, vLLM's by `kv_transfer_params`.
    #[arg(long, value_enum, value_name = "LEG")]
    pub disaggregation: Option<Disaggregation>,

    /// `owned_by` of the entries of /v1/models. Default: the name of the runtime.
    #[arg(long, value_name = "NAME")]
    pub owned_by: Option<String>,

    /// Key that clients must send as `Authorization: Bearer KEY`; without it they get 401.
    ///
    /// /health, /health_generate, /metrics and /sample/* stay open.
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,

    /// Context length in tokens that is reported; longer answers are cut to it.
    #[arg(long, value_name = "TOKENS", default_value_t = 131_072)]
    pub max_model_len: u32,

    /// Length in tokens of an answer whose request sets no limit.
    ///
    /// A request with `max_tokens` gets exactly that many, with finish reason `length`.
    #[arg(long, value_name = "TOKENS", default_value_t = 16)]
    pub output_tokens: u32,

    /// Time from the start of a request to its first token ("200ms", "1.5s").
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_delay)]
    pub ttft: Duration,

    /// Time between two tokens of an answer. With 0 all tokens that are due go out at once.
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_delay)]
    pub itl: Duration,

    /// Prompt tokens per second that the engine can compute; 0 means that they cost no time.
    ///
    /// Only tokens that are not in the prefix cache count, and requests wait for one another, as
    /// they do on one GPU. This is what makes cache-aware routing pay off.
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub prefill_rate: u64,

    /// Requests that run at the same time; the others wait in a queue. 0 means no bound.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub max_running: usize,

    /// Tokens that the prefix cache holds (blocks of 16, least recently used out); 0 turns it off.
    #[arg(long, value_name = "TOKENS", default_value_t = 262_144)]
    pub cache_tokens: u64,

    /// Data-parallel ranks (SGLang), each with a prefix cache and a queue of prompts of its own.
    ///
    /// A request goes to the one that `data_parallel_rank` or `routed_dp_rank` names, others take
    /// turns. The loads are told rank by rank.
    #[arg(long, value_name = "COUNT", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub dp_size: u32,

    /// Share of inference requests, 0 to 1, that fail with `--fail-status`, chosen at random.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_share)]
    pub fail_rate: f64,

    /// Status of the failures of `--fail-rate`.
    #[arg(long, value_name = "STATUS", default_value_t = 500,
          value_parser = clap::value_parser!(u16).range(400..=599))]
    pub fail_status: u16,

    /// Status that /health and /health_generate answer with.
    #[arg(long, value_name = "STATUS", default_value_t = 200,
          value_parser = clap::value_parser!(u16).range(200..=599))]
    pub health_status: u16,

    /// Time after the start during which connections are refused, as while weights are loaded.
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_delay)]
    pub startup_delay: Duration,

    /// Requests that /sample/stats keeps with headers and body, the latest ones; 0 keeps none.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub record: usize,
}

const AFTER_HELP: &str = "\
Examples:
  smg sample-worker --port 8001
  smg sample-worker --port 8001 --model llama --ttft 200ms --itl 20ms --max-running 8
  smg sample-worker --port 8002 --runtime vllm --prefill-rate 20000 --cache-tokens 65536
  smg sample-worker --port 8003 --disaggregation prefill

Ask for a fault in one request, by the header `x-sample-fault` or the body member `sample_fault`
(a gateway forwards bodies, but not headers that it does not know), or for the next requests:
  curl http://127.0.0.1:8001/sample/fault -d '{\"fault\":\"status:503\",\"times\":3}'
  curl http://127.0.0.1:8001/sample/fault -d '{\"fault\":\"status:500\",\"path\":\"/health\"}'
  curl http://127.0.0.1:8001/sample/fault -d '{\"fault\":null}'

Faults; parts may be joined by a comma, as in `slow-head:500ms,status:503`:
  status:503                 answer with this status
  status:429;retry-after=1   the same, with a Retry-After header in seconds
  refuse                     close the connection without an answer
  html                       200 with an HTML page
  slow-head:500ms            wait before the answer
  stall-head                 never answer
  stall-first-token          send the head of the answer, then nothing
  stall-after:N              send N tokens, then nothing
  reset-after:N              send N tokens, then reset the connection
  truncate-after:N           send N tokens, then end without a terminator
  garbage-after:N            send N tokens, then bytes that are no event, and end
  error-frame-after:N        send N tokens, then an error event
In answers that are not streamed, N counts bytes of the body.

Look at what arrived: GET /sample/stats (bodies with --record); POST /sample/reset starts anew.";

/// The defaults of the command line, on a free port.
impl Default for Args {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 0,
            models: vec!["sample".to_owned()],
            runtime: Runtime::Sglang,
            disaggregation: None,
            owned_by: None,
            api_key: None,
            max_model_len: 131_072,
            output_tokens: 16,
            ttft: Duration::ZERO,
            itl: Duration::ZERO,
            prefill_rate: 0,
            max_running: 0,
            cache_tokens: 262_144,
            dp_size: 1,
            fail_rate: 0.0,
            fail_status: 500,
            health_status: 200,
            startup_delay: Duration::ZERO,
            record: 0,
        }
    }
}

impl Runtime {
    /// The name engines call themselves by.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sglang => "sglang",
            Self::Vllm => "vllm",
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("expected a number from 0 to 1, such as `0.1`")]
struct BadShare;

fn parse_share(text: &str) -> Result<f64, BadShare> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or(BadShare)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn defaults_are_those_of_the_command_line() {
        let parsed = Cli::try_parse_from(["smg", "--port", "0"]).unwrap().args;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Args::default()));
    }

    #[test]
    fn durations_and_shares_are_checked() {
        let args = Cli::try_parse_from(["smg", "--ttft", "1.5s", "--fail-rate", "0.25"]).unwrap();
        assert_eq!(args.args.ttft, Duration::from_millis(1500));
        assert!(Cli::try_parse_from(["smg", "--ttft", "soon"]).is_err());
        assert!(Cli::try_parse_from(["smg", "--fail-rate", "2"]).is_err());
        assert!(Cli::try_parse_from(["smg", "--fail-status", "200"]).is_err());
    }
}
