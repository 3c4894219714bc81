//! Micro-benchmarks of the hot stages: event streams, envelopes, every dialect in both directions.
//!
//! For comparing one change with another on one machine: `cargo bench --bench stages -- NAME`. What a whole request costs
//! is `benches/run`'s and `benches/instructions`' to say.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use portcullis::dialect::{self, DIALECTS, Dialect, Encoding, Op, Quirks, RawAsk};
use portcullis::json::Envelope;
use portcullis::sse::{Frame, Scanner};

/// A chat of so many bytes of earlier turns, with the escapes that real prompts are full of.
fn ask(pad: usize) -> Bytes {
    const LINE: &str = r#"fn main() { println!(\"the quick brown fox\"); } // lorem ipsum dolor sit amet\n"#;
    let turns = |of: usize| {
        let role = if of.is_multiple_of(2) { "user" } else { "assistant" };
        format!(r#"{{"role":"{role}","content":"{}"}},"#, LINE.repeat(4096 / LINE.len()))
    };
    let history: String = (0..pad / 4096).map(turns).collect();
    let tools = r#"[{"type":"function","function":{"name":"get_weather","description":"Tells the weather","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]"#;
    format!(
        r#"{{"model":"mock","messages":[{{"role":"system","content":"You are helpful."}},{history}{{"role":"user","content":"Say something about foxes."}}],"temperature":0.7,"max_tokens":256,"tools":{tools}}}"#
    )
    .into()
}

/// An OpenAI stream of 64 chunks.
fn stream() -> Bytes {
    let chunk = |number: usize| {
        format!(
            "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word {number}\"}},\"finish_reason\":null}}]}}\n\n"
        )
    };
    let end = "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    (0..64).map(chunk).chain([end.to_owned()]).collect::<String>().into()
}

fn frames(bytes: &Bytes, mut each: impl FnMut(&Frame<'_>)) {
    let mut scanner = Scanner::new();
    scanner.push(bytes.clone());
    while let Ok(true) = scanner.scan() {
        each(&Frame(scanner.last()));
    }
}

fn raw(body: &Bytes) -> RawAsk<'_> {
    RawAsk { op: Op::Generate, body, model: Some("mock"), stream: false }
}

fn openai() -> &'static dyn Dialect {
    dialect::find("openai_chat").expect("is in the table")
}

fn streams(c: &mut Criterion) {
    let bytes = stream();
    let mut group = c.benchmark_group("stream of 64 chunks");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("scan", |b| b.iter(|| frames(&bytes, |frame| _ = black_box(frame))));
    group.bench_function("sniff", |b| {
        b.iter(|| {
            let mut sniffer = openai().sniffer(Op::Generate);
            frames(&bytes, |frame| _ = black_box(sniffer.frame(frame)));
        })
    });
    let mut events = Vec::new();
    let mut decoder = openai().decoder();
    frames(&bytes, |frame| decoder.frame(frame, &mut events).expect("is sound"));
    group.bench_function("decode", |b| {
        b.iter(|| {
            let (mut decoder, mut out) = (openai().decoder(), Vec::new());
            frames(&bytes, |frame| decoder.frame(frame, &mut out).expect("is sound"));
            out
        })
    });
    let ask = std::sync::Arc::new(openai().decode_ask(&raw(&ask(0))).expect("is sound"));
    let asked = dialect::Asked { op: Op::Generate, ask, model: "m".into(), id: "gen-1".into(), now: 1 };
    for dialect in DIALECTS {
        group.bench_function(format!("encode/{}", dialect.name()), |b| {
            b.iter(|| {
                let (mut encoder, mut out) = (dialect.encoder(&asked), Vec::new());
                events.iter().for_each(|event| encoder.event(event, &mut out));
                encoder.finish(&mut out);
                out
            })
        });
    }
}

fn envelopes(c: &mut Criterion) {
    for (name, pad) in [("0.4 KB", 0), ("100 KB", 100_000)] {
        let body = ask(pad);
        let mut group = c.benchmark_group(format!("envelope of {name}"));
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function("read and splice", |b| {
            b.iter(|| {
                let mut envelope = Envelope::read(body.clone()).expect("is sound");
                envelope.set_str("model", "another");
                envelope.pieces()
            })
        });
    }
}

fn asks(c: &mut Criterion) {
    let body = ask(0);
    let neutral = openai().decode_ask(&raw(&body)).expect("is sound");
    for dialect in DIALECTS {
        let encode = || dialect.encode_ask(&neutral, &mut Encoding::new("mock", &Quirks::NONE)).expect("can be said");
        let own = Bytes::from(encode());
        let mut group = c.benchmark_group(format!("ask/{}", dialect.name()));
        group.bench_function("encode", |b| b.iter(encode));
        group.bench_function("decode", |b| b.iter(|| dialect.decode_ask(&raw(&own)).expect("is sound")));
    }
}

fn answers(c: &mut Criterion) {
    let body = br#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog."},"finish_reason":"stop"}],"usage":{"prompt_tokens":21,"completion_tokens":64,"total_tokens":85}}"#;
    let answer = openai().decode_answer(body).expect("is sound");
    let ask = std::sync::Arc::new(openai().decode_ask(&raw(&ask(0))).expect("is sound"));
    let asked = dialect::Asked { op: Op::Generate, ask, model: "m".into(), id: "gen-1".into(), now: 1 };
    c.bench_function("answer/openai_chat/summary", |b| b.iter(|| openai().summary(Op::Generate, body)));
    for dialect in DIALECTS {
        let own = dialect.encode_answer(&answer, &asked);
        let mut group = c.benchmark_group(format!("answer/{}", dialect.name()));
        group.bench_function("encode", |b| b.iter(|| dialect.encode_answer(&answer, &asked)));
        group.bench_function("decode", |b| b.iter(|| dialect.decode_answer(&own).expect("is sound")));
    }
}

criterion_group!(stages, streams, envelopes, asks, answers);
criterion_main!(stages);
