//! The gemini wire form. Not written yet.

use super::*;
use crate::chat::{Answer, Ask, Event};

pub struct Gemini;

fn missing() -> Fault {
    Fault::new(Kind::UnsupportedFeature, "gemini is not written yet.")
}

impl Dialect for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }
    fn path(&self, _op: Op, _model: &str, _stream: bool) -> Option<String> {
        None
    }
    fn splice(&self, _envelope: &mut Envelope, _model: &str, _quirks: &Quirks) {}
    fn decode_ask(&self, _raw: &RawAsk<'_>) -> Result<Ask, Fault> {
        Err(missing())
    }
    fn encode_ask(&self, _ask: &Ask, _to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
        Err(missing())
    }
    fn decode_answer(&self, _body: &[u8]) -> Result<Answer, Fault> {
        Err(missing())
    }
    fn encode_answer(&self, _answer: &Answer, _asked: &Asked) -> Vec<u8> {
        Vec::new()
    }
    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Missing)
    }
    fn encoder(&self, _asked: &Asked) -> Box<dyn Encoder> {
        Box::new(Missing)
    }
    fn summary(&self, _op: Op, _body: &[u8]) -> Result<Summary, Fault> {
        Err(missing())
    }
    fn sniffer(&self, _op: Op) -> Box<dyn Sniffer> {
        Box::new(Missing)
    }
    fn decode_error(&self, _status: u16, _body: &Bytes) -> Refusal {
        Refusal::default()
    }
    fn encode_error(&self, _fault: &Fault, _request_id: &str) -> Vec<u8> {
        Vec::new()
    }
    fn encode_stream_error(&self, _fault: &Fault, _request_id: &str, _out: &mut Vec<u8>) {}
}

struct Missing;

impl Decoder for Missing {
    fn frame(&mut self, _frame: &Frame<'_>, _out: &mut Vec<Event>) -> Result<(), Fault> {
        Err(missing())
    }
    fn finish(&mut self, _out: &mut Vec<Event>) -> Result<(), Fault> {
        Err(missing())
    }
}

impl Encoder for Missing {
    fn event(&mut self, _event: &Event, _out: &mut Vec<u8>) {}
    fn finish(&mut self, _out: &mut Vec<u8>) {}
}

impl Sniffer for Missing {
    fn frame(&mut self, _frame: &Frame<'_>) -> Sighting {
        Sighting::default()
    }
    fn complete(&self) -> bool {
        false
    }
}
