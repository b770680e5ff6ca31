//! A trace: sessions of chat requests, the workers that are to serve them, and what happens to
//! these workers meanwhile.

use ahash::AHashMap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use smg::api::scan::{Fields, scan};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::text::{self, BLOCK_BYTES, BLOCK_TOKENS};

/// What ends every body.
pub(crate) const TAIL: &[u8] = b"]}";

/// Requests and workers, the same for every policy.
#[derive(Debug)]
pub(crate) struct Trace {
    /// Its parameters, in words.
    pub(crate) about: String,
    /// Conversations.
    pub(crate) sessions: Vec<Session>,
    /// For a closed loop: all requests in order, each sent when the one before it is answered.
    pub(crate) closed: Option<Vec<Request>>,
    /// The workers; those with `present` unset come later.
    pub(crate) workers: Vec<Hardware>,
    /// Workers that come and go: seconds, worker, whether it comes.
    pub(crate) changes: Vec<(f64, usize, bool)>,
    /// Time to first token, in seconds, that counts as good.
    pub(crate) deadline: f64,
    /// Distinct blocks of all prompts and answers: the working set.
    pub(crate) distinct: usize,
    /// Prompt tokens.
    pub(crate) prompt_tokens: u64,
    /// Those that one infinite cache would hold.
    pub(crate) oracle_tokens: u64,
}

/// One turn of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Request {
    /// Index of the session.
    pub(crate) session: u32,
    /// Index of the turn.
    pub(crate) turn: u32,
}

/// A conversation. Its turns share one text, of which each takes a longer start.
#[derive(Debug)]
pub(crate) struct Session {
    /// When its first turn is sent, in seconds.
    pub(crate) start: f64,
    /// With the routing key.
    pub(crate) headers: HeaderMap,
    /// The routing key.
    pub(crate) key: String,
    /// The body of the last turn, without its end.
    pub(crate) body: Bytes,
    /// Blocks of the whole text, the last answer included.
    pub(crate) blocks: Vec<u32>,
    /// Its turns.
    pub(crate) turns: Vec<Turn>,
}

/// A request of a session.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Seconds between the end of the answer before and this request.
    pub(crate) think: f64,
    /// Bytes of the session's body that it takes.
    pub(crate) cut: usize,
    /// Where its members are.
    pub(crate) fields: Fields,
    /// Length of its prompt.
    pub(crate) prompt_tokens: u32,
    /// Length of its answer.
    pub(crate) output_tokens: u32,
    /// Whole blocks of its prompt.
    pub(crate) prompt_blocks: usize,
    /// Whole blocks of prompt and answer.
    pub(crate) end_blocks: usize,
}

impl Turn {
    /// Tokens that count as cached when `blocks` leading blocks are: the last token of a prompt is
    /// always computed, since the answer comes out of it.
    pub(crate) fn cached(&self, blocks: usize) -> u32 {
        let most = (self.prompt_tokens - 1) / BLOCK_TOKENS;
        u32::try_from(blocks).unwrap_or(u32::MAX).min(most) * BLOCK_TOKENS
    }

    /// The body, in the pieces in which it came.
    pub(crate) fn body(&self, session: &Session) -> [Bytes; 2] {
        [session.body.slice(..self.cut), Bytes::from_static(TAIL)]
    }
}

/// How fast a worker is.
#[derive(Debug, Clone)]
pub(crate) struct Hardware {
    /// Prompt tokens computed per second.
    pub(crate) prefill_rate: f64,
    /// Seconds that every step takes, whatever is in it.
    pub(crate) step: f64,
    /// Seconds that each answer adds to a step.
    pub(crate) per_sequence: f64,
    /// Prompt tokens of one step.
    pub(crate) chunk: u32,
    /// Requests at work at once.
    pub(crate) max_running: usize,
    /// Blocks of the cache.
    pub(crate) cache_blocks: usize,
    /// Whether it is there from the start.
    pub(crate) present: bool,
}

/// What a session says: seeds and lengths of its messages.
#[derive(Debug)]
pub(crate) struct Script {
    /// When its first turn is sent.
    pub(crate) start: f64,
    /// Seed and tokens of the system prompt, if it has one.
    pub(crate) system: Option<(u64, u32)>,
    /// Seconds before it, tokens of the question, tokens of the answer.
    pub(crate) turns: Vec<(f64, u32, u32)>,
}

/// Makes sessions out of scripts, and numbers their blocks.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    numbers: AHashMap<u64, u32>,
    sessions: Vec<Session>,
}

impl Writer {
    /// Adds the session that `script` describes, its own text made of `seed`.
    pub(crate) fn write(&mut self, seed: u64, script: &Script) {
        let mut body = br#"{"model":"m","messages":["#.to_vec();
        let mut prompt = Vec::new();
        let mut say = |body: &mut Vec<u8>, role: &str, seed: u64, tokens: u32| {
            if !prompt.is_empty() {
                prompt.push(b' ');
                body.push(b',');
            }
            let from = prompt.len();
            text::write(seed, tokens, &mut prompt);
            body.extend_from_slice(br#"{"role":""#);
            body.extend_from_slice(role.as_bytes());
            body.extend_from_slice(br#"","content":""#);
            body.extend_from_slice(prompt.get(from..).unwrap_or_default());
            body.extend_from_slice(br#""}"#);
            prompt.len()
        };
        if let Some((seed, tokens)) = script.system {
            say(&mut body, "system", seed, tokens);
        }
        let mut turns = Vec::new();
        for (at, (think, question, answer)) in script.turns.iter().enumerate() {
            let at = at as u64 * 2;
            let length = say(&mut body, "user", text::mix(seed ^ at), *question);
            let cut = body.len();
            body.extend_from_slice(TAIL);
            let fields = scan(&body).map(|scan| scan.fields).unwrap_or_default();
            body.truncate(cut);
            let end = say(&mut body, "assistant", text::mix(seed ^ (at + 1)), *answer);
            turns.push(Turn {
                think: *think,
                cut,
                fields,
                prompt_tokens: text::tokens(length),
                output_tokens: (*answer).max(1),
                prompt_blocks: length / BLOCK_BYTES,
                end_blocks: end / BLOCK_BYTES,
            });
        }
        let mut chain = 0;
        let blocks = prompt
            .chunks_exact(BLOCK_BYTES)
            .map(|block| {
                chain = xxh3_64_with_seed(block, chain);
                let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
                *self.numbers.entry(chain).or_insert(next)
            })
            .collect();
        let key = format!("session-{seed:016x}");
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&key) {
            headers.insert("x-smg-routing-key", value);
        }
        body.shrink_to_fit();
        self.sessions.push(Session {
            start: script.start,
            headers,
            key,
            body: body.into(),
            blocks,
            turns,
        });
    }

    /// A trace without workers.
    pub(crate) fn finish(self, deadline: f64) -> Trace {
        let mut trace = Trace {
            about: String::new(),
            sessions: self.sessions,
            closed: None,
            workers: Vec::new(),
            changes: Vec::new(),
            deadline,
            distinct: self.numbers.len(),
            prompt_tokens: 0,
            oracle_tokens: 0,
        };
        let mut seen = vec![false; trace.distinct];
        for session in &trace.sessions {
            for turn in &session.turns {
                let known = session.blocks.iter().take(turn.prompt_blocks);
                let known = known.take_while(|block| seen[**block as usize]).count();
                trace.prompt_tokens += u64::from(turn.prompt_tokens);
                trace.oracle_tokens += u64::from(turn.cached(known));
                for block in session.blocks.iter().take(turn.end_blocks) {
                    seen[*block as usize] = true;
                }
            }
        }
        trace
    }
}

impl Trace {
    /// The session and turn of `request`.
    pub(crate) fn at(&self, request: Request) -> (&Session, &Turn) {
        let session = &self.sessions[request.session as usize];
        (session, &session.turns[request.turn as usize])
    }

    /// Number of requests.
    pub(crate) fn requests(&self) -> usize {
        self.sessions
            .iter()
            .map(|session| session.turns.len())
            .sum()
    }
}
