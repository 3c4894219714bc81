//! One body that several readers hear, each at its own pace from the beginning.
//!
//! No task drives it: whichever reader is ahead pulls, and what it got is there for the others. So the sender is held
//! back by the fastest reader only, and it is cut off when the last reader leaves.
//!
//! Several readers are told of news at most once in [`PACE`], and get together what has come meanwhile: what they cost is
//! mostly a write each for every piece.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use tokio::time::{Duration, Instant};

use super::Inbound;
use super::waiting::{Place, Rung, Waiting};
use crate::chat::Usage;
use crate::dialect::Sniffer;
use crate::dialect::relayed::{Relayed, Stretch};
use crate::fault::{Fault, Kind};

/// What pieces are gathered in: a piece of a few hundred bytes must not keep a socket's whole buffer.
const SEGMENT_BYTES: usize = 16 << 10;

/// The shortest time between two pieces for several readers: forty a second, which nobody can read one by one. Who
/// hears a body alone gets everything at once.
const PACE: Duration = Duration::from_millis(25);

/// A body with what came of it so far.
#[derive(Debug)]
pub struct Tape {
    kept: Mutex<Kept>,
    waiting: Arc<Waiting>,
    /// Most bytes kept. Beyond it nobody joins any more, and a reader that is further behind is cut off.
    max_bytes: usize,
}

#[derive(Debug)]
struct Kept {
    /// None when it has ended, or when nobody listens any more.
    source: Option<Inbound>,
    pieces: VecDeque<Piece>,
    /// Pieces forgotten at the front.
    gone: usize,
    /// Bytes of `pieces`.
    len: usize,
    segment: BytesMut,
    end: Option<Result<(), String>>,
    /// What it broke off with, where more is known of that than words.
    fault: Option<Fault>,
    /// Works the pieces off, once for all readers that want it.
    relayed: Option<Box<Relayed>>,
    /// What was left to work off at a good end.
    last: Option<Worked>,
    readers: usize,
    holds: usize,
}

/// What a stream that may not have ended comes to.
#[derive(Debug, Default, PartialEq)]
pub struct Said {
    /// As the sender has stated it.
    pub usage: Option<Usage>,
    /// Frames with or after the first content.
    pub frames: u64,
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    worked: Option<Worked>,
}

/// The whole frames that a piece brought, and what was wrong with the one after them.
#[derive(Debug, Clone, Default)]
pub struct Worked {
    pub stretches: SmallVec<[Stretch; 1]>,
    pub fault: Option<Box<Fault>>,
}

impl Worked {
    /// Works off what the bytes at hand hold.
    fn of(relayed: &mut Relayed) -> Worked {
        let mut worked = Worked::default();
        loop {
            match relayed.stretch() {
                Ok(Some(stretch)) => worked.stretches.push(stretch),
                Ok(None) => return worked,
                Err(fault) => {
                    worked.fault = Some(Box::new(fault));
                    return worked;
                }
            }
        }
    }
}

/// Keeps the sender as a reader does, without reading.
#[derive(Debug)]
pub struct Hold(Arc<Tape>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut kept = self.0.lock();
        kept.holds -= 1;
        kept.desert();
    }
}

impl Tape {
    /// Begins to record a body; the reader is the first.
    pub fn of(source: Inbound, max_bytes: usize) -> (Arc<Tape>, Reader) {
        let kept = Kept {
            source: Some(source),
            pieces: VecDeque::new(),
            gone: 0,
            len: 0,
            segment: BytesMut::new(),
            end: None,
            fault: None,
            relayed: None,
            last: None,
            readers: 1,
            holds: 0,
        };
        let tape = Arc::new(Tape { kept: Mutex::new(kept), waiting: Arc::default(), max_bytes });
        let reader = Reader::new(&tape);
        (tape, reader)
    }

    /// Another reader, from the beginning. None when the beginning is no longer there, or nobody pulls any more.
    pub fn join(self: &Arc<Self>) -> Option<Reader> {
        let mut kept = self.lock();
        if kept.gone > 0 || (kept.source.is_none() && kept.end.is_none()) {
            return None;
        }
        kept.readers += 1;
        Some(Reader::new(self))
    }

    pub fn hold(self: &Arc<Self>) -> Hold {
        self.lock().holds += 1;
        Hold(self.clone())
    }

    /// Everything, in one piece of its own, when it came to a good end and is all there. Takes what is at hand first: a
    /// client may have left at the final marker, before the connection's own end was looked at.
    pub fn whole(&self) -> Option<Bytes> {
        let mut rung = Vec::new();
        let mut kept = self.lock();
        // Also where somebody has asked: the end may be there, and not told yet.
        while kept.source.is_some() && kept.pull(&self.waiting.ask_anew(), self.max_bytes).is_ready() {
            rung.push(self.waiting.ring());
        }
        if kept.gone > 0 || kept.end != Some(Ok(())) {
            return None;
        }
        let mut bytes = Vec::with_capacity(kept.len);
        kept.pieces.iter().for_each(|piece| bytes.extend_from_slice(&piece.bytes));
        Some(bytes.into())
    }

    /// What the sender has said until now, as far as it is still there, whoever has heard it.
    pub fn so_far(&self, sniffer: Box<dyn Sniffer>) -> Said {
        let pieces: Vec<Bytes> = self.lock().pieces.iter().map(|piece| piece.bytes.clone()).collect();
        let mut relayed = Relayed::new(sniffer);
        let mut said = Said::default();
        for piece in pieces {
            relayed.push(piece);
            // A frame that cannot be read ends it, as it ended the stream.
            while let Ok(Some(Stretch { frames, told, .. })) = relayed.stretch() {
                said.frames += u64::from(frames);
                if let Some(usage) = told.as_ref().and_then(|told| told.usage.as_ref()) {
                    said.usage.get_or_insert_default().update(usage);
                }
            }
        }
        said
    }

    /// Asks the sender, unless somebody has and it has not rung since. None when there is nothing new; else those to be
    /// told, once the lock has been given back.
    fn advance(&self, kept: &mut Kept) -> Option<Rung> {
        kept.source.as_ref()?;
        let pulled = kept.pull(&self.waiting.ask()?, self.max_bytes);
        if pulled.is_ready() && kept.is_shared() {
            self.waiting.rest_until(Instant::now() + PACE);
        }
        pulled.is_ready().then(|| self.waiting.ring())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Cuts the sender off when nobody is left.
    fn desert(&mut self) {
        if self.holds == 0 && self.readers == 0 {
            self.source = None;
        }
    }

    fn is_shared(&self) -> bool {
        self.readers > 1
    }

    /// Takes from the sender: a piece, which is all that has come where several hear it, or its end.
    fn pull(&mut self, asked: &Waker, max_bytes: usize) -> Poll<()> {
        let mut came = false;
        while let Some(source) = &mut self.source {
            match source.poll_data(&mut Context::from_waker(asked)) {
                Poll::Ready(Some(Ok(piece))) => self.take(&piece),
                Poll::Ready(end) => {
                    self.fault = source.fault();
                    (self.source, self.end) = (None, Some(end.map_or(Ok(()), |end| end.map(drop))));
                }
                Poll::Pending if came => break,
                Poll::Pending => return Poll::Pending,
            }
            came = true;
            if !self.is_shared() || self.segment.len() >= SEGMENT_BYTES {
                break;
            }
        }
        if !self.segment.is_empty() {
            let bytes = self.segment.split().freeze();
            self.len += bytes.len();
            self.pieces.push_back(Piece { bytes, worked: None });
            self.forget(max_bytes);
        }
        Poll::Ready(())
    }

    /// Copies what has come into memory of the tape's own.
    fn take(&mut self, piece: &[u8]) {
        let len = self.segment.len() + piece.len();
        if self.segment.capacity() < len {
            let mut larger = BytesMut::with_capacity(len.max(SEGMENT_BYTES));
            larger.extend_from_slice(&self.segment);
            self.segment = larger;
        }
        self.segment.extend_from_slice(piece);
    }

    /// Lets go of the oldest pieces until the rest is within the bound. Who had not read them is lost.
    fn forget(&mut self, max_bytes: usize) {
        // The newest piece stays: whoever pulled it is about to read it.
        while self.len > max_bytes && self.pieces.len() > 1 {
            self.len -= self.pieces.pop_front().map_or(0, |piece| piece.bytes.len());
            self.gone += 1;
        }
    }

    /// A piece worked off. Whoever asks has asked for all before it.
    fn worked(&mut self, at: usize) -> Worked {
        let (Some(piece), Some(relayed)) = (self.pieces.get_mut(at), &mut self.relayed) else {
            return Worked::default();
        };
        let fresh = || {
            relayed.push(piece.bytes.clone());
            Worked::of(relayed)
        };
        piece.worked.get_or_insert_with(fresh).clone()
    }

    /// What was left after the last piece.
    fn last(&mut self) -> Worked {
        let Some(relayed) = &mut self.relayed else { return Worked::default() };
        let fresh = || {
            relayed.close();
            Worked::of(relayed)
        };
        self.last.get_or_insert_with(fresh).clone()
    }
}

/// One who hears a [`Tape`].
#[derive(Debug)]
pub struct Reader {
    tape: Arc<Tape>,
    /// The number of the piece that it reads next.
    next: usize,
    /// That was let go of before it came to it.
    lost: bool,
    place: Place,
}

/// What a reader comes to that has the tape worked off.
#[derive(Debug)]
pub enum Found {
    Frames(Worked),
    /// The body has come to a good end; what was left of it.
    End(Worked),
    Broken(String),
}

impl Reader {
    fn new(tape: &Arc<Tape>) -> Self {
        Reader { tape: tape.clone(), next: 0, lost: false, place: Place::default() }
    }

    /// Has the body worked off for this reader and for all others that want it. All of them must want the same of it.
    pub fn work_off(&mut self, relayed: Relayed) {
        self.tape.lock().relayed.get_or_insert_with(|| Box::new(relayed));
    }

    /// As [`Inbound::fault`].
    pub(super) fn fault(&self) -> Option<Fault> {
        let behind =
            || Fault::new(Kind::ClientTooSlow, "The client was too far behind the others who hear the stream.");
        if self.lost { Some(behind()) } else { self.tape.lock().fault.clone() }
    }

    /// As [`Inbound::poll_data`].
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        self.poll(cx, |kept, at| match kept.pieces.get(at) {
            Some(piece) => Some(Ok(piece.bytes.clone())),
            None => kept.end.clone().and_then(Result::err).map(Err),
        })
        .map(|found| found.unwrap_or_else(|error| Some(Err(error))))
    }

    /// The next frames, after [`Reader::work_off`].
    pub fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Found> {
        let found = self.poll(cx, |kept, at| match &kept.end {
            _ if at < kept.pieces.len() => Found::Frames(kept.worked(at)),
            Some(Err(error)) => Found::Broken(error.clone()),
            _ => Found::End(kept.last()),
        });
        found.map(|found| found.unwrap_or_else(Found::Broken))
    }

    /// Looks at the next piece, or at the end when there is none.
    fn poll<T>(&mut self, cx: &mut Context<'_>, look: impl FnOnce(&mut Kept, usize) -> T) -> Poll<Result<T, String>> {
        let tape = &self.tape;
        if tape.waiting.knows(&self.place, cx.waker()) {
            return Poll::Pending;
        }
        // Dropped after the lock, as those whom it wakes may want it.
        let mut _rung = None;
        let mut kept = tape.lock();
        if self.next == kept.gone + kept.pieces.len() {
            _rung = tape.advance(&mut kept);
        }
        let Some(at) = self.next.checked_sub(kept.gone) else {
            self.lost = true;
            return Poll::Ready(Err("this reader was too far behind the others".to_owned()));
        };
        if at < kept.pieces.len() || kept.source.is_none() {
            self.next += usize::from(at < kept.pieces.len());
            return Poll::Ready(Ok(look(&mut kept, at)));
        }
        if !tape.waiting.wait(&mut self.place, cx.waker()) {
            // It rang since: there may be something.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut kept = self.tape.lock();
        kept.readers -= 1;
        kept.desert();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Op;

    /// The pieces a reader gets until it must wait or is at the end: None when it must wait.
    fn read(reader: &mut Reader) -> (String, Option<Result<(), String>>) {
        let mut text = String::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match reader.poll_data(&mut cx) {
                Poll::Ready(Some(Ok(piece))) => text.push_str(std::str::from_utf8(&piece).expect("text")),
                Poll::Ready(Some(Err(error))) => return (text, Some(Err(error))),
                Poll::Ready(None) => return (text, Some(Ok(()))),
                Poll::Pending => return (text, None),
            }
        }
    }

    #[test]
    fn every_reader_hears_all_of_it_whoever_pulls_and_whoever_leaves() {
        let (sender, source) = super::super::channel();
        let (tape, mut first) = Tape::of(source, 1000);
        sender.send(Ok("one ".into())).expect("heard");
        assert_eq!(read(&mut first), ("one ".into(), None));
        let mut second = tape.join().expect("the beginning is there");
        sender.send(Ok("two ".into())).expect("heard");
        assert_eq!(read(&mut second), ("one two ".into(), None));
        // The first leaves; the second goes on by itself.
        drop(first);
        sender.send(Ok("three".into())).expect("heard");
        drop(sender);
        assert_eq!(read(&mut second), ("three".into(), Some(Ok(()))));
        let mut late = tape.join().expect("the beginning is there");
        assert_eq!(read(&mut late), ("one two three".into(), Some(Ok(()))));
        assert_eq!(tape.whole().as_deref(), Some(&b"one two three"[..]));
    }

    #[test]
    fn what_was_said_until_a_break_is_told_whoever_has_heard_it() {
        let (sender, source) = super::super::channel();
        let (tape, mut first) = Tape::of(source, 10_000);
        let dialect = crate::dialect::find("openai_chat").expect("a dialect");
        let said = |frames| Said { usage: None, frames };
        let event =
            |text: &str| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        assert_eq!(tape.so_far(dialect.sniffer(Op::Generate)), said(0));
        sender.send(Ok(event("one").into())).expect("heard");
        sender.send(Ok(format!("{}data: {{\"cho", event("two")).into())).expect("heard");
        read(&mut first);
        drop(first);
        assert_eq!(tape.so_far(dialect.sniffer(Op::Generate)), said(2), "half an event is none");
    }

    #[test]
    fn the_sender_is_cut_off_when_the_last_reader_leaves() {
        let (sender, source) = super::super::channel();
        let (tape, first) = Tape::of(source, 1000);
        let second = tape.join().expect("joins");
        drop(first);
        let hold = tape.hold();
        drop(second);
        assert!(sender.send(Ok("x".into())).is_ok() && tape.join().is_some());
        drop(hold);
        assert!(sender.send(Ok("x".into())).is_err() && tape.join().is_none() && tape.whole().is_none());
    }

    #[test]
    fn a_break_is_heard_by_all_and_nothing_whole_is_left() {
        let (sender, source) = super::super::channel();
        let (tape, mut first) = Tape::of(source, 1000);
        sender.send(Ok("half".into())).expect("heard");
        sender.send(Err("cut".into())).expect("heard");
        assert_eq!(read(&mut first), ("half".into(), Some(Err("cut".into()))));
        let mut second = tape.join().expect("joins");
        assert_eq!(read(&mut second), ("half".into(), Some(Err("cut".into()))));
        assert!(tape.whole().is_none());
    }

    #[derive(Debug)]
    struct Fails(Fault);

    impl super::super::Made for Fails {
        fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
            Poll::Ready(Some(Err(self.0.message.clone())))
        }

        fn fault(&self) -> Option<&Fault> {
            Some(&self.0)
        }
    }

    #[test]
    fn what_a_stream_broke_off_with_is_known_to_all_who_hear_it() {
        let fault = Fault::new(Kind::RateLimited, "Too many.");
        let (tape, mut first) = Tape::of(Inbound::Made(Box::new(Fails(fault))), 1000);
        assert_eq!(read(&mut first), (String::new(), Some(Err("Too many.".to_owned()))));
        let late = tape.join().expect("joins");
        for reader in [first, late] {
            let fault = Inbound::Shared(reader).fault().expect("known");
            assert_eq!((fault.kind, fault.message.as_str()), (Kind::RateLimited, "Too many."));
        }
    }

    #[test]
    fn memory_is_bounded_and_only_who_is_too_far_behind_is_lost() {
        let (sender, source) = super::super::channel();
        let (tape, mut fast) = Tape::of(source, 100);
        let mut slow = tape.join().expect("joins");
        for _ in 0..50 {
            sender.send(Ok("0123456789".into())).expect("heard");
            assert_eq!(read(&mut fast).0.len(), 10);
        }
        let kept = tape.lock().len;
        assert!(kept <= 100, "{kept}");
        assert!(matches!(read(&mut slow), (text, Some(Err(_))) if text.is_empty()));
        assert_eq!(slow.fault().map(|fault| fault.kind), Some(Kind::ClientTooSlow), "it is not the provider's failure");
        assert!(fast.fault().is_none());
        drop(sender);
        assert_eq!(read(&mut fast), (String::new(), Some(Ok(()))));
        assert!(tape.join().is_none() && tape.whole().is_none());
    }

    fn chat() -> Relayed {
        let dialect = crate::dialect::find("openai_chat").expect("built in");
        Relayed::new(dialect.sniffer(crate::dialect::Op::Generate)).with_usage_apart()
    }

    /// The stretches a reader gets until it must wait or is at the end, and whether that is so.
    fn stretches(reader: &mut Reader) -> (Vec<Stretch>, bool) {
        let mut all = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match reader.poll_frames(&mut cx) {
                Poll::Ready(Found::Frames(worked)) => all.extend(worked.stretches),
                Poll::Ready(Found::End(worked)) => {
                    all.extend(worked.stretches);
                    return (all, true);
                }
                Poll::Ready(Found::Broken(error)) => panic!("{error}"),
                Poll::Pending => return (all, false),
            }
        }
    }

    #[test]
    fn frames_are_worked_off_once_and_who_comes_late_gets_the_same_bytes() {
        let (sender, source) = super::super::channel();
        let (tape, mut first) = Tape::of(source, 100_000);
        first.work_off(chat());
        let text = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello, here is a text.\"}}]}\n\n";
        let stop = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
        let whole = format!("{text}{text}{text}{stop}data: [DONE]");
        // The second text is torn, and the last event lacks its empty line.
        let cut = text.len() + 20;
        sender.send(Ok(whole[..cut].to_owned().into())).expect("heard");
        let mut heard = stretches(&mut first).0;
        assert_eq!((heard.len(), &heard[0].bytes[..]), (1, text.as_bytes()));
        let (mut late, mut plain) = (tape.join().expect("joins"), tape.join().expect("joins"));
        // Whoever comes later wants the same, so that what it brings is not needed.
        late.work_off(chat());
        sender.send(Ok(whole[cut..].to_owned().into())).expect("heard");
        drop(sender);
        let theirs = stretches(&mut late);
        let (rest, ended) = stretches(&mut first);
        heard.extend(rest);
        assert!(ended && theirs.1);
        let text_of = |all: &[Stretch]| all.iter().map(|stretch| stretch.bytes.to_vec()).collect::<Vec<_>>().concat();
        assert_eq!(text_of(&heard), format!("{whole}\n\n").into_bytes());
        for (one, other) in heard.iter().zip(&theirs.0) {
            assert_eq!(
                (one.bytes.as_ptr(), one.frames, one.complete),
                (other.bytes.as_ptr(), other.frames, other.complete)
            );
            let finish = |stretch: &Stretch| stretch.told.as_ref().and_then(|told| told.finish);
            assert_eq!((one.content, finish(one)), (other.content, finish(other)));
        }
        assert_eq!(heard.iter().map(|stretch| stretch.frames).sum::<u32>(), 5);
        // Who wants the body as it came gets it so, and so does the store.
        assert_eq!(read(&mut plain), (whole.clone(), Some(Ok(()))));
        assert_eq!(tape.whole().as_deref(), Some(whole.as_bytes()));
        assert!(stretches(&mut first).1 && stretches(&mut late).1);
    }

    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[test]
    fn all_who_wait_are_woken_once_whoever_asked_and_whoever_left() {
        let (sender, source) = super::super::channel();
        let (tape, first) = Tape::of(source, 1000);
        let mut readers = vec![first];
        readers.extend((0..4).map(|_| tape.join().expect("joins")));
        let tasks: Vec<Arc<Woken>> = readers.iter().map(|_| Arc::default()).collect();
        let poll = |reader: &mut Reader, task: &Arc<Woken>| {
            let waker = Waker::from(task.clone());
            reader.poll_data(&mut Context::from_waker(&waker)).map(|piece| piece.is_some())
        };
        let counts = || tasks.iter().map(|task| task.0.load(std::sync::atomic::Ordering::SeqCst)).collect::<Vec<_>>();
        for (reader, task) in readers.iter_mut().zip(&tasks) {
            // A second look, as connections take it, changes nothing.
            assert!(poll(reader, task).is_pending() && poll(reader, task).is_pending());
        }
        // The first one asked the sender; it leaves.
        drop(readers.remove(0));
        // Somebody who has heard the final marker looks whether that was all.
        assert_eq!(tape.whole(), None);
        sender.send(Ok("one".into())).expect("heard");
        assert_eq!(counts(), [1; 5]);
        for (reader, task) in readers.iter_mut().zip(&tasks[1..]) {
            assert_eq!(poll(reader, task), Poll::Ready(true));
            assert!(poll(reader, task).is_pending());
        }
        assert_eq!(counts(), [1; 5]);
        drop(sender);
        assert_eq!(counts(), [1, 2, 2, 2, 2]);
        for (reader, task) in readers.iter_mut().zip(&tasks[1..]) {
            assert_eq!(poll(reader, task), Poll::Ready(false));
        }
    }

    /// Whether a reader is woken within a time, by a clock that the test holds.
    async fn woken(reader: &mut Reader, within: Duration) -> Option<String> {
        let piece = std::future::poll_fn(|cx| reader.poll_data(cx));
        let piece = tokio::time::timeout(within, piece).await.ok()?;
        piece.map(|piece| String::from_utf8_lossy(&piece.expect("no break")).into_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn several_readers_hear_together_what_comes_fast_and_one_hears_it_at_once() {
        let (sender, source) = super::super::channel();
        let (tape, mut first) = Tape::of(source, 1000);
        let send = |text: &'static str| sender.send(Ok(text.into())).expect("heard");
        let soon = Duration::from_millis(1);
        for text in ["one", "two"] {
            send(text);
            assert_eq!(woken(&mut first, soon).await.as_deref(), Some(text), "it is alone");
        }
        let mut second = tape.join().expect("joins");
        assert_eq!(woken(&mut second, soon).await.as_deref(), Some("one"));
        assert_eq!(woken(&mut second, soon).await.as_deref(), Some("two"));
        assert_eq!(woken(&mut second, soon).await, None);
        // What was long not said is told at once, and begins a rest.
        send("three");
        assert_eq!(woken(&mut second, soon).await.as_deref(), Some("three"));
        assert_eq!(woken(&mut first, soon).await.as_deref(), Some("three"));
        assert_eq!(woken(&mut first, soon).await, None);
        send("four ");
        assert_eq!(woken(&mut first, PACE / 2).await, None);
        send("five");
        assert_eq!(woken(&mut first, PACE).await.as_deref(), Some("four five"));
        assert_eq!(woken(&mut second, soon).await.as_deref(), Some("four five"));
        // Who is left alone has no rest to wait for but the one that has begun; the end comes with what was before it.
        drop(second);
        assert_eq!(woken(&mut first, soon).await, None);
        send("six");
        assert_eq!(woken(&mut first, PACE).await.as_deref(), Some("six"));
        send("seven");
        assert_eq!(woken(&mut first, soon).await.as_deref(), Some("seven"));
        drop(sender);
        assert_eq!(read(&mut first), (String::new(), Some(Ok(()))));
        assert_eq!(tape.whole().as_deref(), Some(&b"onetwothreefour fivesixseven"[..]));
    }
}
