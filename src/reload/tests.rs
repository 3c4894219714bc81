//! Builds that take their time: who may go on meanwhile, and what is done after them.

use std::sync::Mutex as Lock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};

use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::state::log::Log;

/// How long a test waits for what must come.
const SOON: Duration = Duration::from_secs(30);

/// A configuration, and a reloader whose builds wait at every look at `${HELD}` once they are `held`.
struct Bed {
    file: PathBuf,
    reloader: Arc<Reloader>,
    held: Arc<AtomicBool>,
    /// The thread of each build that has come to where it waits.
    arrived: UnboundedReceiver<ThreadId>,
    go: threads::Sender<()>,
    most: Arc<AtomicUsize>,
}

impl Bed {
    fn new(name: &str) -> Self {
        let file = std::env::temp_dir().join(format!("portcullis-reload-{}-{name}.yaml", std::process::id()));
        std::fs::write(&file, good(1)).expect("is writable");
        let (arrive, arrived) = mpsc::unbounded_channel();
        let (go, goes) = threads::channel::<()>();
        let goes = Lock::new(goes);
        let (held, most, now) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let (holds, counts) = (held.clone(), most.clone());
        let env = move |name: &str| {
            if name == "HELD" && holds.load(Ordering::SeqCst) {
                counts.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let _ = arrive.send(thread::current().id());
                let _ = goes.lock().expect("whole").recv_timeout(SOON);
                now.fetch_sub(1, Ordering::SeqCst);
            }
            Some("x".to_owned())
        };
        let builder = Builder::new(Some(file.clone()), Box::new(env));
        let current = Arc::new(ArcSwap::from_pointee(builder.build(1).expect("builds")));
        let state = Arc::new(State::new(0, Log::off()));
        let reloader = Arc::new(Reloader::new(builder, Smoke::default(), current, state));
        held.store(true, Ordering::SeqCst);
        Bed { file, reloader, held, arrived, go, most }
    }

    async fn arrives(&mut self) -> ThreadId {
        timeout(SOON, self.arrived.recv()).await.expect("it builds").expect("it builds")
    }

    /// Lets this build and all others go on.
    fn release(&self) {
        self.held.store(false, Ordering::SeqCst);
        let _ = self.go.send(());
    }

    fn number(&self) -> u64 {
        self.reloader.current.load().number
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.release();
        let _ = std::fs::remove_file(&self.file);
    }
}

fn good(number: u32) -> String {
    format!(
        "providers: {{ a: {{ dialect: openai_chat, base_url: 'http://a', api_key: \"${{HELD}}\" }} }}\nmodels: {{ m: a/{number} }}\n"
    )
}

#[tokio::test]
async fn a_build_keeps_nobody_from_the_runtime_and_is_not_given_up_with_whoever_asked() {
    let mut bed = Bed::new("aside");
    let reloader = bed.reloader.clone();
    let asks = tokio::spawn(async move { reloader.reload().await });
    assert_ne!(bed.arrives().await, thread::current().id());
    asks.abort();
    assert!(asks.await.is_err_and(|error| error.is_cancelled()));
    // The next one waits for its turn.
    let next = bed.reloader.reload();
    let release = async { bed.release() };
    let (next, ()) = tokio::join!(next, release);
    assert_eq!((next, bed.number(), bed.most.load(Ordering::SeqCst)), (Ok(3), 3, 1));
}

#[tokio::test]
async fn what_is_asked_for_during_a_build_is_done_once_after_it() {
    let mut bed = Bed::new("asked");
    tokio::spawn(bed.reloader.clone().heed());
    bed.reloader.ask();
    bed.arrives().await;
    std::fs::write(&bed.file, good(2)).expect("is writable");
    (0..5).for_each(|_| bed.reloader.ask());
    bed.release();
    while bed.number() < 3 {
        tokio::task::yield_now().await;
    }
    assert!(bed.reloader.current.load().sources[0].1.contains("a/2"));
    assert_eq!(bed.reloader.reload().await, Ok(4), "more than one was done");
}

#[tokio::test]
async fn a_change_during_a_build_that_is_refused_is_built_after_it() {
    let mut bed = Bed::new("refused");
    std::fs::write(&bed.file, good(2) + "nonsense: 1\n").expect("is writable");
    let watches = tokio::spawn(bed.reloader.clone().watch());
    // Its files are looked up before what it is made of is read.
    bed.arrives().await;
    bed.go.send(()).expect("it builds");
    bed.arrives().await;
    std::fs::write(&bed.file, good(3)).expect("is writable");
    bed.release();
    let built = async {
        while bed.number() < 2 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, built).await.expect("the change was missed");
    assert!(bed.reloader.current.load().sources[0].1.contains("a/3"));
    watches.abort();
}

#[tokio::test]
async fn a_build_that_breaks_off_leaves_the_old_generation_and_says_so() {
    let aside = Aside::start();
    let error = aside.work::<()>(|| panic!("broken")).await.expect_err("it broke off");
    assert!(error.contains("broke off"), "{error}");
    assert_eq!(aside.work(|| 1).await, Ok(1), "the next one is done all the same");
}
