//! The decoder of one stream: cuts what comes into the pieces that the guest wants, and makes events of what it says.
//!
//! Engine-free: a [`Reader`] has the guest. What was good before a fault is handed on as well. Others have their turn
//! between pieces, and however much a guest says, little of it is held.

use tokio::time::Instant;

use super::Framing;
use super::cut::{Cutter, Piece};
use crate::chat::Event;
use crate::dialect::adapter::{Assembler, Desk, Pending, Step, StreamDecoder, refused};
use crate::fault::{Fault, Kind, Refusal};
use crate::guest::give_way;
use crate::host::ticker;

/// Things that a guest may say of one piece. A read of bytes holds some hundred events at most.
const MAX_SAID: usize = 10_000;

/// Events that are handed over before more of the same bytes is worked off.
const MAX_HELD: usize = 1024;

/// One thing that a guest says of a stream; a refusal is the upstream's report that ends it.
pub type Said = Result<Step, Box<Refusal>>;

/// Makes events of what a guest says.
pub struct Told {
    assembler: Assembler,
    /// Those of the present bytes that were not handed over yet.
    events: Vec<Event>,
    /// The adapter's name.
    label: &'static str,
    /// Things said of the present piece.
    said: usize,
}

impl Told {
    /// # Errors
    /// The upstream reports one, what is said does not fit what was said before, or it is too much.
    pub fn said(&mut self, said: Said) -> Result<(), Fault> {
        self.said += 1;
        if self.said > MAX_SAID {
            let text = format!("The adapter `{}` tells of more than {MAX_SAID} events in one piece.", self.label);
            return Err(Fault::new(Kind::GuestFailed, text));
        }
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
        let told = Told { assembler: Assembler::new(label), events: Vec::new(), label, said: 0 };
        Decoding { cutter: Cutter::new(framing), told, reader }
    }

    /// Works off the whole pieces at hand.
    async fn pieces(&mut self, desk: &Desk) -> Result<(), Fault> {
        // Timed from the second piece on: mostly there is one, and the clock is not looked at.
        let (mut is_first, mut began) = (true, None);
        while let Some(piece) = self.cutter.next()? {
            // A guest that needs less than a turn for each piece never gives way by itself.
            if !std::mem::take(&mut is_first) && began.get_or_insert_with(Instant::now).elapsed() >= ticker::TURN {
                give_way().await;
                began = Some(Instant::now());
            }
            self.told.said = 0;
            self.reader.push(piece, &mut self.told).await?;
            desk.finished(self.told.assembler.is_finished());
            if self.told.events.len() >= MAX_HELD {
                desk.part(&mut self.told.events).await;
            }
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Fault> {
        self.told.said = 0;
        if let Some(piece) = self.cutter.rest() {
            self.reader.push(piece, &mut self.told).await?;
        }
        self.reader.finish(&mut self.told).await?;
        Ok(())
    }

    async fn through(mut self, desk: Desk) {
        while let Some(bytes) = desk.next().await {
            self.cutter.push(bytes);
            let worked = self.pieces(&desk).await;
            let broke = worked.is_err();
            desk.worked(&mut self.told.events, worked);
            if broke {
                return;
            }
        }
        let worked = self.end().await;
        let Decoding { told: Told { mut assembler, mut events, .. }, reader, .. } = self;
        if worked.is_ok() {
            desk.finished(assembler.is_finished());
            assembler.close(&mut events);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Inbound;
    use crate::chat::{Delta, Finish};
    use crate::stream::Adapted;

    /// Says so much of each piece.
    struct Says(usize);

    impl Reader for Says {
        async fn push(&mut self, _: Piece, told: &mut Told) -> Result<(), Fault> {
            (0..self.0).try_for_each(|_| told.said(Ok(Step::Text("a".to_owned()))))
        }

        async fn finish(&mut self, told: &mut Told) -> Result<(), Fault> {
            told.said(Ok(Step::Finish { reason: Finish::Stop, native: None, stop_sequence: None }))
        }

        async fn release(self) {}
    }

    fn adapted(says: usize) -> Adapted {
        let body = Inbound::Ready(Some("one\ntwo\nthree\n".into()));
        Adapted::new(body, Box::new(Decoding::new("wasm:test", Framing::Lines, Says(says))))
    }

    #[tokio::test]
    async fn however_much_is_said_it_is_handed_over_a_little_at_a_time() {
        let mut adapted = adapted(3000);
        let (mut all, mut most) = (Vec::new(), 0);
        loop {
            let mut some = Vec::new();
            let Some(worked) = std::future::poll_fn(|cx| adapted.poll_events(cx, &mut some)).await else { break };
            worked.expect("good");
            most = most.max(some.len());
            all.append(&mut some);
        }
        let texts = all.iter().filter(|event| matches!(event, Event::Delta { delta: Delta::Text(_), .. })).count();
        assert_eq!((texts, most), (9000, 16));
        assert!(matches!(all.last(), Some(Event::Finish { .. })), "{:?}", all.last());
    }

    #[tokio::test]
    async fn what_is_said_of_one_piece_has_a_bound() {
        let fault = adapted(200_000).all().await.expect_err("too much");
        assert_eq!(fault.kind, Kind::GuestFailed);
        assert!(fault.message.contains("`wasm:test` tells of more than 10000 events in one piece"), "{fault}");
    }
}
