//! The decoder of one stream: cuts what comes into the pieces that the guest wants, and makes events of what it says.
//!
//! Engine-free: a [`Reader`] has the guest. What was good before a fault is handed on as well.

use bytes::Bytes;

use super::Framing;
use super::cut::{Cutter, Piece};
use crate::chat::Event;
use crate::dialect::adapter::{Assembler, Pending, Pushed, Step, StreamDecoder, refused};
use crate::fault::{Fault, Kind, Refusal};

/// One thing that a guest says of a stream; a refusal is the upstream's report that ends it.
pub type Said = Result<Step, Box<Refusal>>;

/// A guest that reads one stream.
pub trait Reader: Send + 'static {
    /// What the next piece says.
    ///
    /// # Errors
    /// It is not in the wire form, or the guest broke.
    fn push(&mut self, piece: Piece) -> impl Future<Output = Result<Vec<Said>, Fault>> + Send;

    /// What the end of the stream says.
    ///
    /// # Errors
    /// As [`Reader::push`].
    fn finish(&mut self) -> impl Future<Output = Result<Vec<Said>, Fault>> + Send;

    /// The stream has ended well: what the guest lived in is free again.
    fn release(self) -> impl Future<Output = ()> + Send;
}

/// One stream's decoder.
pub struct Decoding<R> {
    cutter: Cutter,
    assembler: Assembler,
    reader: R,
}

impl<R: Reader> Decoding<R> {
    /// For an adapter of this name.
    pub fn new(label: &'static str, framing: Framing, reader: R) -> Self {
        Decoding { cutter: Cutter::new(framing), assembler: Assembler::new(label), reader }
    }

    async fn pieces(&mut self, pieces: Vec<Piece>, out: &mut Vec<Event>) -> Result<(), Fault> {
        for piece in pieces {
            let said = self.reader.push(piece).await?;
            self.take(said, out)?;
        }
        Ok(())
    }

    async fn end(&mut self, out: &mut Vec<Event>) -> Result<(), Fault> {
        let rest = self.cutter.rest();
        self.pieces(rest.into_iter().collect(), out).await?;
        let said = self.reader.finish().await?;
        self.take(said, out)?;
        self.assembler.close(out);
        Ok(())
    }

    fn take(&mut self, said: Vec<Said>, out: &mut Vec<Event>) -> Result<(), Fault> {
        for step in said {
            match step {
                Ok(step) => self.assembler.step(step, out)?,
                Err(said) => return Err(refused(*said)),
            }
        }
        Ok(())
    }
}

impl<R: Reader> StreamDecoder for Decoding<R> {
    fn push(mut self: Box<Self>, bytes: Bytes) -> Pending<'static, Pushed> {
        Box::pin(async move {
            let mut events = Vec::new();
            let worked = match self.cutter.push(bytes) {
                Ok(pieces) => self.pieces(pieces, &mut events).await,
                Err(fault) => Err(fault),
            };
            (self as Box<dyn StreamDecoder>, events, worked)
        })
    }

    fn finish(mut self: Box<Self>) -> Pending<'static, Pushed> {
        Box::pin(async move {
            let mut events = Vec::new();
            let worked = self.end(&mut events).await;
            if worked.is_ok() {
                self.reader.release().await;
            }
            (Box::new(Over) as Box<dyn StreamDecoder>, events, worked)
        })
    }
}

/// What is left of a decoder at the end of its stream.
struct Over;

impl StreamDecoder for Over {
    fn push(self: Box<Self>, _: Bytes) -> Pending<'static, Pushed> {
        self.finish()
    }

    fn finish(self: Box<Self>) -> Pending<'static, Pushed> {
        let fault = Fault::new(Kind::Internal, "A stream was read on after its end.");
        Box::pin(std::future::ready((self as Box<dyn StreamDecoder>, Vec::new(), Err(fault))))
    }
}
