//! The decoder of one stream: cuts what comes into the pieces that the guest wants, and makes events of what it says.
//!
//! Engine-free: a [`Reader`] has the guest. What was good before a fault is handed on as well.

use super::Framing;
use super::cut::{Cutter, Piece};
use crate::chat::Event;
use crate::dialect::adapter::{Assembler, Desk, Pending, Step, StreamDecoder, refused};
use crate::fault::{Fault, Refusal};

/// One thing that a guest says of a stream; a refusal is the upstream's report that ends it.
pub type Said = Result<Step, Box<Refusal>>;

/// Makes events of what a guest says.
pub struct Told {
    assembler: Assembler,
    /// Those of the present bytes.
    events: Vec<Event>,
}

impl Told {
    /// # Errors
    /// The upstream reports one, or what is said does not fit what was said before.
    pub fn said(&mut self, said: Said) -> Result<(), Fault> {
        match said {
            Ok(step) => self.assembler.step(step, &mut self.events),
            Err(said) => Err(refused(*said)),
        }
    }
}

/// A guest that reads one stream.
pub trait Reader: Send + 'static {
    /// Tells what the next piece says.
    ///
    /// # Errors
    /// It is not in the wire form, the guest broke, or an error of [`Told::said`].
    fn push(&mut self, piece: Piece, told: &mut Told) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Tells what the end of the stream says.
    ///
    /// # Errors
    /// As [`Reader::push`].
    fn finish(&mut self, told: &mut Told) -> impl Future<Output = Result<(), Fault>> + Send;

    /// The stream has ended well: what the guest lived in is free again.
    fn release(self) -> impl Future<Output = ()> + Send;
}

/// One stream's decoder.
pub struct Decoding<R> {
    cutter: Cutter,
    told: Told,
    reader: R,
}

impl<R: Reader> Decoding<R> {
    /// For an adapter of this name.
    pub fn new(label: &'static str, framing: Framing, reader: R) -> Self {
        let told = Told { assembler: Assembler::new(label), events: Vec::new() };
        Decoding { cutter: Cutter::new(framing), told, reader }
    }

    /// Works off the whole pieces at hand.
    async fn pieces(&mut self) -> Result<(), Fault> {
        while let Some(piece) = self.cutter.next()? {
            self.reader.push(piece, &mut self.told).await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Fault> {
        if let Some(piece) = self.cutter.rest() {
            self.reader.push(piece, &mut self.told).await?;
        }
        self.reader.finish(&mut self.told).await?;
        self.told.assembler.close(&mut self.told.events);
        Ok(())
    }

    async fn through(mut self, desk: Desk) {
        while let Some(bytes) = desk.next().await {
            self.cutter.push(bytes);
            let worked = self.pieces().await;
            let broke = worked.is_err();
            desk.worked(&mut self.told.events, worked);
            if broke {
                return;
            }
        }
        let worked = self.end().await;
        let Decoding { told: Told { mut events, .. }, reader, .. } = self;
        if worked.is_ok() {
            reader.release().await;
        }
        desk.worked(&mut events, worked);
    }
}

impl<R: Reader> StreamDecoder for Decoding<R> {
    fn run(self: Box<Self>, desk: Desk) -> Pending<'static, ()> {
        Box::pin(self.through(desk))
    }
}
