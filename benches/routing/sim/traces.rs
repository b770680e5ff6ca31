//! The traces: what is asked, by whom, and of which workers.

use fastrand::Rng;

use super::text::{BLOCK_TOKENS, mix};
use super::trace::{Hardware, Request, Script, Trace, Writer};

/// A kind of trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// What it is called.
    pub(crate) name: &'static str,
    make: fn(seed: u64) -> Trace,
}

/// All of them.
pub(crate) const ALL: [Kind; 8] = [
    kind("multi-turn", multi_turn),
    kind("agent", agent),
    kind("32k-in", long_in),
    kind("unique", unique),
    kind("concurrency-1", one_at_a_time),
    kind("churn", churn),
    kind("slow-worker", slow_worker),
    kind("cold-replica", cold_replica),
];

const fn kind(name: &'static str, make: fn(u64) -> Trace) -> Kind {
    Kind { name, make }
}

impl Kind {
    /// The trace of `seed`.
    pub(crate) fn make(self, seed: u64) -> Trace {
        (self.make)(seed)
    }
}

/// Workers of most traces.
const WORKERS: usize = 8;

/// A worker as it is unless a trace says otherwise.
const WORKER: Hardware = Hardware {
    prefill_rate: 8000.0,
    step: 0.012,
    per_sequence: 0.0003,
    chunk: 2048,
    max_running: 64,
    cache_blocks: 0,
    present: true,
};

/// Lengths in tokens, from and to; shorter ones are more likely, as the logarithm is uniform.
type Lengths = (u32, u32);

/// Conversations as they are drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Talk {
    /// Conversations in all.
    pub(crate) sessions: usize,
    /// Conversations that begin per second, at random.
    pub(crate) rate: f64,
    /// System prompts, the nth as popular as 1/n; none: 0.
    pub(crate) systems: usize,
    /// Their lengths.
    pub(crate) system: Lengths,
    /// Turns of a conversation, each number as likely.
    pub(crate) turns: (usize, usize),
    /// First questions.
    pub(crate) first: Lengths,
    /// Later ones.
    pub(crate) question: Lengths,
    /// Answers.
    pub(crate) answer: Lengths,
    /// Mean seconds between an answer and the next question, exponentially distributed.
    pub(crate) think: f64,
}

impl Talk {
    /// Writes the conversations of `seed`.
    pub(crate) fn write(&self, seed: u64, deadline: f64) -> Trace {
        let mut rng = Rng::with_seed(mix(seed));
        let systems: Vec<u32> = (0..self.systems)
            .map(|_| length(self.system, &mut rng))
            .collect();
        let popularity: Vec<f64> = (1..=self.systems)
            .scan(0.0, |sum, rank| {
                *sum += 1.0 / rank as f64;
                Some(*sum)
            })
            .collect();
        let mut writer = Writer::default();
        let mut start = 0.0;
        for session in 0..self.sessions {
            start += exponential(1.0 / self.rate, &mut rng);
            let system = popularity.last().map(|sum| {
                let drawn = rng.f64() * sum;
                let rank = popularity.partition_point(|below| *below < drawn);
                let tokens = systems.get(rank).copied().unwrap_or_default();
                (mix(seed ^ 0x5751 ^ ((rank as u64) << 32)), tokens)
            });
            let turns = (0..rng.usize(self.turns.0..=self.turns.1))
                .map(|turn| {
                    let question = if turn == 0 { self.first } else { self.question };
                    (
                        exponential(self.think, &mut rng),
                        length(question, &mut rng),
                        length(self.answer, &mut rng),
                    )
                })
                .collect();
            let script = Script {
                start,
                system,
                turns,
            };
            writer.write(mix(seed.rotate_left(32) ^ session as u64), &script);
        }
        let mut trace = writer.finish(deadline);
        let Self {
            sessions,
            rate,
            systems,
            system,
            turns,
            first,
            question,
            answer,
            think,
        } = self;
        trace.about = format!("{sessions} sessions, {rate}/s at random");
        if *systems > 0 {
            trace.about += &format!(
                "; {systems} system prompts of {} tokens, popularity Zipf 1.0",
                span(*system)
            );
        }
        trace.about += &format!(
            "; turns {} to {}, first question {}, later {}, answer {} tokens",
            turns.0,
            turns.1,
            span(*first),
            span(*question),
            span(*answer)
        );
        if turns.1 > 1 {
            trace.about += &format!("; {think} s between answer and next question");
        }
        trace
    }
}

fn span(lengths: Lengths) -> String {
    if lengths.0 == lengths.1 {
        lengths.0.to_string()
    } else {
        format!("{} to {}", lengths.0, lengths.1)
    }
}

fn length(lengths: Lengths, rng: &mut Rng) -> u32 {
    let (from, to) = (f64::from(lengths.0), f64::from(lengths.1));
    (from * (to / from).powf(rng.f64())).round() as u32
}

fn exponential(mean: f64, rng: &mut Rng) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

impl Trace {
    /// Gives the trace `count` workers like `worker`, whose caches together hold `share` of the
    /// working set.
    pub(crate) fn on(mut self, count: usize, worker: &Hardware, share: f64) -> Self {
        let cache_blocks = (self.distinct as f64 * share / count as f64) as usize;
        let worker = Hardware {
            cache_blocks,
            ..worker.clone()
        };
        self.workers = vec![worker; count];
        let Hardware {
            prefill_rate,
            step,
            per_sequence,
            chunk,
            max_running,
            ..
        } = WORKER;
        self.about += &format!(
            "; {count} workers, each {prefill_rate} prompt tokens/s in chunks of {chunk}, a step \
             {:.0} ms + {:.1} ms per answer, {max_running} requests at once, caches of {} tokens \
             (together {:.0} % of the {} distinct tokens)",
            step * 1e3,
            per_sequence * 1e3,
            cache_blocks * BLOCK_TOKENS as usize,
            share * 100.0,
            self.distinct * BLOCK_TOKENS as usize,
        );
        self
    }

    fn also(mut self, text: &str) -> Self {
        self.about += "; ";
        self.about += text;
        self
    }
}

/// Chats with shared system prompts.
pub(crate) const CHAT: Talk = Talk {
    sessions: 860,
    rate: 4.6,
    systems: 32,
    system: (300, 2400),
    turns: (3, 11),
    first: (200, 2400),
    question: (200, 2400),
    answer: (80, 400),
    think: 5.0,
};

fn multi_turn(seed: u64) -> Trace {
    CHAT.write(seed, 0.5).on(WORKERS, &WORKER, 0.5)
}

fn agent(seed: u64) -> Trace {
    let talk = Talk {
        sessions: 200,
        rate: 1.5,
        systems: 8,
        system: (3000, 6000),
        turns: (10, 30),
        first: (200, 2000),
        question: (300, 3600),
        answer: (30, 200),
        think: 1.5,
    };
    talk.write(seed, 1.0).on(WORKERS, &WORKER, 0.6)
}

fn long_in(seed: u64) -> Trace {
    let talk = Talk {
        sessions: 400,
        rate: 1.3,
        systems: 0,
        system: (1, 1),
        turns: (1, 3),
        first: (32_000, 32_000),
        question: (50, 200),
        answer: (1, 1),
        think: 20.0,
    };
    talk.write(seed, 6.0)
        .on(WORKERS, &WORKER, 0.3)
        .also("the later questions are about the same document")
}

fn unique(seed: u64) -> Trace {
    let talk = Talk {
        sessions: 1600,
        rate: 6.5,
        systems: 0,
        system: (1, 1),
        turns: (1, 1),
        first: (2000, 16_000),
        question: (1, 1),
        answer: (50, 300),
        think: 0.0,
    };
    talk.write(seed, 2.5).on(WORKERS, &WORKER, 0.3)
}

fn one_at_a_time(seed: u64) -> Trace {
    let talk = Talk {
        sessions: 200,
        ..CHAT
    };
    let mut trace = talk.write(seed, 0.35).on(WORKERS, &WORKER, 0.5);
    trace.closed = Some(interleaved(&trace, 16, seed));
    trace.also("one request at a time, of 16 sessions in random turns")
}

/// All requests, `open` sessions at a time in random turns.
pub(crate) fn interleaved(trace: &Trace, open: usize, seed: u64) -> Vec<Request> {
    let mut rng = Rng::with_seed(mix(seed ^ 0x1a7e));
    let sessions = u32::try_from(trace.sessions.len()).unwrap_or(u32::MAX);
    let mut later = 0..sessions;
    let mut talking: Vec<Request> = Vec::new();
    let mut order = Vec::with_capacity(trace.requests());
    loop {
        while talking.len() < open
            && let Some(session) = later.next()
        {
            talking.push(Request { session, turn: 0 });
        }
        if talking.is_empty() {
            return order;
        }
        let drawn = rng.usize(..talking.len());
        let request = talking.swap_remove(drawn);
        order.push(request);
        let turns = trace.sessions[request.session as usize].turns.len();
        if (request.turn as usize) + 1 < turns {
            talking.push(Request {
                turn: request.turn + 1,
                ..request
            });
        }
    }
}

fn churn(seed: u64) -> Trace {
    const EVERY: f64 = 15.0;
    let talk = Talk {
        sessions: 560,
        rate: 4.0,
        ..CHAT
    };
    let mut trace = talk.write(seed, 0.5).on(WORKERS, &WORKER, 0.75);
    let end = 560.0 / 4.0;
    let mut at = EVERY;
    while at < end {
        let leaves = trace.workers.len() - WORKERS;
        trace.changes.push((at, leaves, false));
        trace.changes.push((at, trace.workers.len(), true));
        let fresh = Hardware {
            present: false,
            ..trace.workers[0].clone()
        };
        trace.workers.push(fresh);
        at += EVERY;
    }
    trace.also("every 15 s the oldest worker leaves and another one with an empty cache joins")
}

fn slow_worker(seed: u64) -> Trace {
    let talk = Talk {
        sessions: 560,
        rate: 3.6,
        ..CHAT
    };
    let mut trace = talk.write(seed, 0.5).on(WORKERS, &WORKER, 0.75);
    if let Some(slow) = trace.workers.get_mut(WORKERS / 2) {
        slow.prefill_rate /= 3.0;
        slow.step *= 3.0;
        slow.per_sequence *= 3.0;
    }
    trace.also("one of them takes three times as long for everything")
}

fn cold_replica(seed: u64) -> Trace {
    let talk = Talk {
        sessions: 560,
        rate: 4.0,
        ..CHAT
    };
    let mut trace = talk.write(seed, 0.5).on(WORKERS, &WORKER, 0.75);
    if let Some(cold) = trace.workers.last_mut() {
        cold.present = false;
    }
    trace.changes.push((70.0, WORKERS - 1, true));
    trace.also("one of them joins after 70 s, with an empty cache")
}
