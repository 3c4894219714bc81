//! What stands where a built-in dialect would for a provider whose wire form an adapter teaches.
//!
//! It is nobody's wire form: it compares unequal to every caller's, has no paths, and whoever uses it to read or write
//! a body gets a fault that says so. `attempt` asks the face's adapter before it would.

use bytes::Bytes;

use super::super::{
    Asked, Begun, Decoder, Dialect, Encoder, Encoding, Op, Quirks, RawAsk, Refusal, Sighting, Sniffer, Summary,
};
use crate::chat::{Answer, Ask, Event};
use crate::fault::{Fault, Kind};
use crate::json::Envelope;
use crate::sse::Frame;

/// The stand-in.
pub static TAUGHT: Taught = Taught;

/// See the module.
pub struct Taught;

fn nobodys() -> Fault {
    Fault::new(Kind::Internal, "The wire form of an adapter was used without its adapter.")
}

impl Dialect for Taught {
    fn name(&self) -> &'static str {
        "adapter"
    }

    fn path(&self, _: Op, _: &str, _: bool) -> Option<String> {
        None
    }

    fn splice(&self, _: &mut Envelope, _: &str, _: &Quirks) {}

    fn decode_ask(&self, _: &RawAsk<'_>) -> Result<Ask, Fault> {
        Err(nobodys())
    }

    fn encode_ask(&self, _: &Ask, _: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
        Err(nobodys())
    }

    fn decode_answer(&self, _: &[u8]) -> Result<Answer, Fault> {
        Err(nobodys())
    }

    fn encode_answer(&self, _: &Answer, _: &Asked) -> Vec<u8> {
        Vec::new()
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Taught)
    }

    fn encoder(&self, _: &Asked) -> Box<dyn Encoder> {
        Box::new(Taught)
    }

    fn summary(&self, _: Op, _: &[u8]) -> Result<Summary, Fault> {
        Err(nobodys())
    }

    fn sniffer(&self, _: Op) -> Box<dyn Sniffer> {
        Box::new(Taught)
    }

    fn decode_error(&self, status: u16, body: &Bytes) -> Refusal {
        let message = String::from_utf8_lossy(body).chars().take(200).collect();
        Refusal { status, message, dialect: self.name(), body: body.clone(), ..Refusal::default() }
    }

    fn encode_error(&self, fault: &Fault, _: &str) -> Vec<u8> {
        fault.text().into_bytes()
    }

    fn encode_stream_error(&self, _: &Fault, _: &Begun<'_>, _: &mut Vec<u8>) {}
}

impl Decoder for Taught {
    fn frame(&mut self, _: &Frame<'_>, _: &mut Vec<Event>) -> Result<(), Fault> {
        Err(nobodys())
    }

    fn finish(&mut self, _: &mut Vec<Event>) -> Result<(), Fault> {
        Err(nobodys())
    }
}

impl Encoder for Taught {
    fn event(&mut self, _: &Event, _: &mut Vec<u8>) {}

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn continued(&mut self, _: &str) {}
}

impl Sniffer for Taught {
    fn frame(&mut self, _: &Frame<'_>) -> Sighting {
        Sighting { fault: Some(nobodys()), ..Sighting::default() }
    }

    fn complete(&self) -> bool {
        false
    }
}
