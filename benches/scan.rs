//! What the scan of a request body costs, against a typed parse and a full tree; and what the event
//! reader costs per chunk. Prints tables; `cargo bench --bench scan`.
#![expect(clippy::print_stdout, reason = "the tables are what a bench is for")]

use std::hint::black_box;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use smg::api::scan::scan;
use smg::api::sse::{Dialect, Reader};
use smg::api::usage::Finder;
use smg::base::clock;

const SIZES: [usize; 4] = [300, 16 << 10, 64 << 10, 1 << 20];
const RUNS: usize = 9;

#[derive(Deserialize)]
#[expect(dead_code, reason = "stands for what a typed gateway would read")]
struct Request {
    model: String,
    stream: Option<bool>,
    n: Option<u32>,
    messages: Option<Vec<Message>>,
    input_ids: Option<Vec<u32>>,
    max_tokens: Option<u32>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "stands for what a typed gateway would read")]
struct Message {
    role: String,
    content: String,
}

fn main() {
    println!("request bodies, median of {RUNS} runs\n");
    println!("| body | bytes | scan ns | ns/byte | typed ns | tree ns | tree/scan |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (name, body) in [
        ("plain", plain as fn(usize) -> String),
        ("escaped", escaped),
        ("messages", messages),
        ("token ids", ids),
    ] {
        for size in SIZES {
            let body = body(size);
            let bytes = body.as_bytes();
            let scanned = median(bytes.len(), || scan(bytes).is_ok());
            let typed = median(bytes.len(), || {
                serde_json::from_slice::<Request>(bytes).is_ok()
            });
            let tree = median(bytes.len(), || {
                serde_json::from_slice::<Value>(bytes).is_ok()
            });
            println!(
                "| {name} | {} | {scanned:.0} | {:.3} | {typed:.0} | {tree:.0} | {:.0} |",
                bytes.len(),
                scanned / size_of(bytes),
                tree / scanned
            );
        }
    }
    println!("\nstream chunks and answers, median of {RUNS} runs\n");
    println!("| what | bytes | ns |");
    println!("|---|--:|--:|");
    let chat = chat_chunk(false);
    let with_null = chat_chunk(true);
    let usage = b"data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12}}\n\n";
    let delta = b"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":41,\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"delta\":\" there\",\"logprobs\":[]}\n\n";
    for (name, dialect, chunk) in [
        ("chat chunk", Dialect::Completions, chat.as_bytes()),
        (
            "chat chunk with a null usage",
            Dialect::Completions,
            with_null.as_bytes(),
        ),
        ("usage chunk", Dialect::Completions, usage),
        ("responses delta", Dialect::Responses, delta),
    ] {
        let mut reader = Reader::new(dialect);
        let whole = median(chunk.len(), || reader.read(chunk).boundary);
        println!("| {name} | {} | {whole:.0} |", chunk.len());
        let (head, tail) = chunk.split_at(chunk.len() / 2);
        let halves = median(chunk.len(), || {
            reader.read(head);
            reader.read(tail).boundary
        });
        println!("| {name}, in two halves | {} | {halves:.0} |", chunk.len());
    }
    let answer = format!(
        "{{\"id\":\"c\",\"choices\":[{{\"message\":{{\"content\":\"{}\"}}}}],\"usage\":{{\"prompt_tokens\":5,\"completion_tokens\":7}}}}",
        "words and words ".repeat(1000)
    );
    let found = median(answer.len(), || Finder::find(answer.as_bytes()).is_some());
    println!("| usage of an answer | {} | {found:.0} |", answer.len());
}

/// Nanoseconds per call: the median of several runs of some milliseconds each.
fn median(bytes: usize, mut call: impl FnMut() -> bool) -> f64 {
    let rounds = (4_000_000 / bytes.max(40)).clamp(3, 50_000);
    let mut runs: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = clock::now();
            for _ in 0..rounds {
                assert!(black_box(call()), "the input is good");
            }
            start.elapsed()
        })
        .collect();
    runs.sort();
    let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
    runs.get(RUNS / 2)
        .map_or(0.0, |run| run.as_secs_f64() * 1e9 / f64::from(rounds))
}

fn size_of(bytes: &[u8]) -> f64 {
    u32::try_from(bytes.len()).map_or(f64::INFINITY, f64::from)
}

fn chat_body(content: &str) -> String {
    format!(
        "{{\"model\":\"llama-3.1-8b\",\"messages\":[{{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"}},{{\"role\":\"user\",\"content\":\"{content}\"}}],\"temperature\":0.7,\"top_p\":0.95,\"max_tokens\":256,\"stream\":true,\"n\":1}}"
    )
}

fn filled(size: usize, text: &str) -> String {
    let around = chat_body("").len();
    chat_body(&text.repeat(size.saturating_sub(around) / text.len()))
}

fn plain(size: usize) -> String {
    filled(size, "the quick brown fox jumps over the lazy dog and on ")
}

/// Source code as it stands in prompts: a line feed and a quote or two per line.
fn escaped(size: usize) -> String {
    filled(
        size,
        "    let name = \\\"value\\\";\\n\\tprintln!(\\\"{name}\\\");\\n",
    )
}

fn messages(size: usize) -> String {
    let turn = "{\"role\":\"user\",\"content\":\"and what then?\"},{\"role\":\"assistant\",\"content\":\"Then we go on.\"},";
    let turns = turn.repeat(size / turn.len());
    format!(
        "{{\"model\":\"m\",\"messages\":[{}],\"stream\":false}}",
        turns.trim_end_matches(',')
    )
}

fn ids(size: usize) -> String {
    let ids = "1, 15043, 29991, 128006, 882, ".repeat(size / 30);
    format!(
        "{{\"model\":\"m\",\"input_ids\":[{}],\"stream\":false}}",
        ids.trim_end_matches(", ")
    )
}

fn chat_chunk(usage: bool) -> String {
    let usage = if usage { ",\"usage\":null" } else { "" };
    format!(
        "data: {{\"id\":\"chatcmpl-8f1c2d3e4a5b\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"llama-3.1-8b\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" there\"}},\"logprobs\":null,\"finish_reason\":null}}]{usage}}}\n\n"
    )
}
