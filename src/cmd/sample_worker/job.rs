//! A generation request, understood: which answers, from which prompts, in which shape.

use std::sync::Arc;

use super::answer::{Answer, Finish};
use super::ask::{self, Input, Item, Message, Turns};
use super::engine::Engine;
use super::fault::Fault;
use super::hash::{fold, mix};
use super::prompt::Prompt;
use super::reply::Refusal;
use crate::base::clock;

/// Answers that one request may ask for.
const MOST_ANSWERS: usize = 256;

/// The API that a generation request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Chat,
    Completion,
    Generate,
    Responses,
}

/// A generation request.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) api: Api,
    /// Number of the answer's id.
    pub(super) id: u64,
    /// Unix seconds.
    pub(super) created: u64,
    /// The model, as a JSON string.
    pub(super) model: Arc<str>,
    /// The rank of the engine that computes it.
    pub(super) rank: usize,
    /// Tells which worker answered.
    pub(super) port: u16,
    pub(super) prompts: Vec<Asked>,
    /// The answers, those of one prompt side by side.
    pub(super) answers: Vec<Answer>,
    pub(super) stream: bool,
    /// Whether a stream ends with a chunk of usage.
    pub(super) include_usage: bool,
    /// Whether /generate answers with an array.
    pub(super) batch: bool,
}

/// One prompt of a request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) tokens: u64,
    /// Tokens that the prefix cache held; set when the request starts to run.
    pub(super) cached: u64,
    pub(super) blocks: Vec<u64>,
}

/// A request and the fault that its body asks for.
pub(super) type Parsed<T> = Result<(T, Option<Fault>), Refusal>;

impl Job {
    /// Reads the body of a request that came by `api`.
    ///
    /// # Errors
    /// 400 for a body that is no such request, 404 for an unknown model.
    pub(super) fn parse(engine: &Engine, api: Api, body: &[u8]) -> Parsed<Self> {
        match api {
            Api::Chat => chat(engine, serde_json::from_slice(body)?),
            Api::Completion => completion(engine, serde_json::from_slice(body)?),
            Api::Generate => generate(engine, serde_json::from_slice(body)?),
            Api::Responses => responses(engine, serde_json::from_slice(body)?),
        }
    }

    /// Tokens of the prompts.
    pub(super) fn prompt_tokens(&self) -> u64 {
        self.prompts.iter().map(|prompt| prompt.tokens).sum()
    }

    /// Tokens of the prompts that the cache held.
    pub(super) fn cached_tokens(&self) -> u64 {
        self.prompts.iter().map(|prompt| prompt.cached).sum()
    }

    /// Tokens of the answers.
    pub(super) fn completion_tokens(&self) -> u64 {
        self.answers
            .iter()
            .map(|answer| u64::from(answer.tokens()))
            .sum()
    }

    /// Steps that the engine takes: each makes one token of every answer not yet ended.
    pub(super) fn steps(&self) -> u32 {
        self.answers
            .iter()
            .map(Answer::tokens)
            .max()
            .unwrap_or(0)
            .max(1)
    }

    /// The prompt that answer `index` belongs to.
    pub(super) fn prompt_of(&self, index: usize) -> Option<&Asked> {
        self.prompts
            .get(index * self.prompts.len() / self.answers.len().max(1))
    }
}

/// What all requests say about their answers.
struct Wish<'a> {
    api: Api,
    model: Option<&'a str>,
    limit: Option<u32>,
    n: Option<u32>,
    stops: &'a ask::Texts<'a>,
    stream: Option<bool>,
    include_usage: bool,
    rank: Option<u32>,
}

#[expect(clippy::needless_pass_by_value, reason = "parsed for this call alone")]
fn chat(engine: &Engine, ask: ask::Chat<'_>) -> Parsed<Job> {
    if ask.messages.is_empty() {
        return Err(Refusal::bad_request("`messages` must not be empty"));
    }
    let wish = Wish {
        api: Api::Chat,
        model: ask.model.as_ref().map(ask::Text::as_str),
        limit: ask.max_completion_tokens.or(ask.max_tokens),
        n: ask.n,
        stops: &ask.stop,
        stream: ask.stream,
        include_usage: wants_usage(ask.stream_options.as_ref()),
        rank: ask.routed_dp_rank.or(ask.data_parallel_rank),
    };
    let fill = |prompt: &mut Prompt| turns(prompt, &ask.messages);
    Ok((
        build(engine, &wish, 1, |prompt, _| fill(prompt))?,
        fault(ask.sample_fault.as_ref())?,
    ))
}

#[expect(clippy::needless_pass_by_value, reason = "parsed for this call alone")]
fn completion(engine: &Engine, ask: ask::Completion<'_>) -> Parsed<Job> {
    let wish = Wish {
        api: Api::Completion,
        model: ask.model.as_ref().map(ask::Text::as_str),
        limit: ask.max_tokens,
        n: ask.n,
        stops: &ask.stop,
        stream: ask.stream,
        include_usage: wants_usage(ask.stream_options.as_ref()),
        rank: ask.routed_dp_rank.or(ask.data_parallel_rank),
    };
    Ok((
        build_from(engine, &wish, &ask.prompt)?,
        fault(ask.sample_fault.as_ref())?,
    ))
}

fn generate(engine: &Engine, ask: ask::Generate<'_>) -> Parsed<Job> {
    let Some(input) = ask.text.or(ask.input_ids) else {
        return Err(Refusal::bad_request(
            "either `text` or `input_ids` must be given",
        ));
    };
    let params = ask.sampling_params.unwrap_or_default();
    let wish = Wish {
        api: Api::Generate,
        model: ask.model.as_ref().map(ask::Text::as_str),
        limit: params.max_new_tokens,
        n: None,
        stops: &params.stop,
        stream: ask.stream,
        include_usage: false,
        rank: ask.routed_dp_rank.or(ask.data_parallel_rank),
    };
    let job = build_from(engine, &wish, &input)?;
    if job.stream && job.prompts.len() > 1 {
        return Err(Refusal::bad_request("a stream has one prompt"));
    }
    Ok((job, fault(ask.sample_fault.as_ref())?))
}

#[expect(clippy::needless_pass_by_value, reason = "parsed for this call alone")]
fn responses(engine: &Engine, ask: ask::Responses<'_>) -> Parsed<Job> {
    let wish = Wish {
        api: Api::Responses,
        model: ask.model.as_ref().map(ask::Text::as_str),
        limit: ask.max_output_tokens,
        n: None,
        stops: &ask::Texts::default(),
        stream: ask.stream,
        include_usage: false,
        rank: ask.routed_dp_rank.or(ask.data_parallel_rank),
    };
    let fill = |prompt: &mut Prompt| {
        if let Some(text) = &ask.instructions {
            turn(prompt, "system", std::iter::once(text.as_str()));
        }
        match &ask.input {
            Turns::Text(text) => turn(prompt, "user", std::iter::once(text.as_str())),
            Turns::Messages(messages) => turns(prompt, messages),
        }
    };
    Ok((
        build(engine, &wish, 1, |prompt, _| fill(prompt))?,
        fault(ask.sample_fault.as_ref())?,
    ))
}

fn build_from(engine: &Engine, wish: &Wish<'_>, input: &Input<'_>) -> Result<Job, Refusal> {
    let mut job = build(engine, wish, input.0.len(), |prompt, index| {
        match &input.0[index] {
            Item::Text(text) => prompt.text(text.as_str()),
            Item::Ids(ids) => prompt.ids(ids),
        }
    })?;
    job.batch = input.0.len() > 1;
    Ok(job)
}

fn build(
    engine: &Engine,
    wish: &Wish<'_>,
    count: usize,
    fill: impl Fn(&mut Prompt, usize),
) -> Result<Job, Refusal> {
    let n = wish.n.unwrap_or(1) as usize;
    if n == 0 || count == 0 || n.saturating_mul(count) > MOST_ANSWERS {
        let message = format!("a request has 1 to {MOST_ANSWERS} answers, not {n} for {count}");
        return Err(Refusal::bad_request(message));
    }
    let model = engine.model(wish.model)?;
    let mut job = Job {
        api: wish.api,
        id: engine.id(),
        created: clock::unix().as_secs(),
        port: engine.port,
        rank: engine.rank(wish.rank)?,
        prompts: Vec::with_capacity(count),
        answers: Vec::with_capacity(n * count),
        stream: wish.stream.unwrap_or(false),
        include_usage: wish.include_usage,
        batch: false,
        model,
    };
    let finish = if wish.limit.is_some() {
        Finish::Length
    } else {
        Finish::Stop
    };
    for index in 0..count {
        let mut prompt = Prompt::new(fold(0, job.model.as_bytes()));
        fill(&mut prompt, index);
        let tokens = prompt.tokens();
        let room = u64::from(engine.args.max_model_len)
            .saturating_sub(tokens)
            .max(1);
        let most = wish.limit.unwrap_or(engine.args.output_tokens);
        let most = most.min(u32::try_from(room).unwrap_or(u32::MAX));
        // A prompt that has been computed gives the first token, and others make the rest.
        let most = if engine.is_prefill() { 1 } else { most };
        for answer in 0..n as u64 {
            let seed = mix(prompt.seed().wrapping_add(answer));
            job.answers
                .push(Answer::new(seed, most, finish, wish.stops.iter()));
        }
        job.prompts.push(Asked {
            tokens,
            cached: 0,
            blocks: prompt.into_blocks(),
        });
    }
    Ok(job)
}

fn turns(prompt: &mut Prompt, messages: &[Message<'_>]) {
    for message in messages {
        let role = message.role.as_ref().map_or("user", ask::Text::as_str);
        turn(prompt, role, message.content.iter());
    }
}

fn turn<'a>(prompt: &mut Prompt, role: &str, texts: impl Iterator<Item = &'a str>) {
    prompt.text(role);
    prompt.text("\n");
    for text in texts {
        prompt.text(text);
    }
    prompt.text("\n");
}

fn wants_usage(options: Option<&ask::StreamOptions>) -> bool {
    options
        .and_then(|options| options.include_usage)
        .unwrap_or(false)
}

/// The fault that the body member asks for.
///
/// # Errors
/// 400 when it is none.
pub(super) fn fault(text: Option<&ask::Text<'_>>) -> Result<Option<Fault>, Refusal> {
    let parse = |text: &ask::Text<'_>| text.as_str().parse::<Fault>();
    text.map(parse)
        .transpose()
        .map_err(|bad| Refusal::bad_request(bad.to_string()))
}
