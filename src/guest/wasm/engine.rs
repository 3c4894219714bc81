//! The one engine of the process: how components are compiled, how much they may take together, and the clock that
//! stops them.
//!
//! Knows nothing of what a component is for. Outlives every generation, as compiled code belongs to it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// One tick of the clock that guests are measured by.
pub const TICK: Duration = Duration::from_millis(1);

/// One tick while a guest runs for long, and so what it may run before others have their turn. Somebody else's request
/// passes a worker in several steps, and each may have to wait for one of these.
pub const TURN: Duration = Duration::from_micros(250);

/// Ticks without any call after which the clock rests.
const REST_AFTER: u32 = 1000;

/// Instances of all plugins together. Each stream through an adapter holds one as long as it runs.
const MAX_INSTANCES: u32 = 4000;

/// Core modules inside one component. Python's have some dozens.
const MAX_CORE_PER_COMPONENT: u32 = 200;

/// Elements of one table. Python's components need about 40,000.
const MAX_TABLE_ELEMENTS: usize = 60_000;

/// What a component's own stack may take. Depth beyond it is a trap, not a crash.
const MAX_STACK_BYTES: usize = 512 << 10;

/// The stack of a call: the component's and that of the host functions under it.
const FIBER_STACK_BYTES: usize = 1 << 20;

/// Memory of a slot that stays with the process after its instance: zeroing a little is cheaper than mapping it anew.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;

/// The engine, and whether somebody needs its clock.
pub struct Machine {
    pub engine: Engine,
    clock: Arc<Clock>,
}

struct Clock {
    /// A guest ran since the last look.
    wanted: AtomicBool,
    resting: AtomicBool,
    /// A guest runs for long: the next tick is a short one.
    hurried: AtomicBool,
    thread: OnceLock<std::thread::Thread>,
}

impl Machine {
    /// # Errors
    /// The engine does not run on this machine; in wasmtime's words.
    pub fn new() -> Result<Self, String> {
        // A pool reserves addresses, not memory; where a limit on addresses forbids it, instances are mapped one by one,
        // which costs some 10 µs each.
        let engine = Engine::new(&config(true)).or_else(|refused| {
            tracing::warn!("plugins run without a pool, and start more slowly: {refused}");
            Engine::new(&config(false))
        });
        let engine = engine.map_err(|error| format!("WebAssembly does not run here: {error:#}"))?;
        let clock = Arc::new(Clock {
            wanted: AtomicBool::new(false),
            resting: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            thread: OnceLock::new(),
        });
        let (ticking, weak) = (Arc::downgrade(&clock), engine.weak());
        let tick = move || {
            let mut idle = 0;
            // Ends with the last handle of the engine.
            while let (Some(clock), Some(engine)) = (ticking.upgrade(), weak.upgrade()) {
                engine.increment_epoch();
                drop(engine);
                idle = if clock.wanted.swap(false, Ordering::Relaxed) { 0 } else { idle + 1 };
                if idle > REST_AFTER {
                    clock.resting.store(true, Ordering::SeqCst);
                    drop(clock);
                    // The bound lets the thread end with its engine.
                    std::thread::park_timeout(Duration::from_secs(1));
                    continue;
                }
                clock.resting.store(false, Ordering::SeqCst);
                clock.pause();
            }
        };
        let thread = std::thread::Builder::new().name("wasm-clock".into()).spawn(tick);
        let thread = thread.map_err(|error| format!("no thread for the clock of plugins: {error}"))?;
        let _ = clock.thread.set(thread.thread().clone());
        Ok(Machine { engine, clock })
    }

    /// A guest is about to run, or still runs: the clock must go.
    pub fn wind(&self) {
        // Read before it is written: the line stays shared between the workers.
        if !self.clock.wanted.load(Ordering::Relaxed) {
            self.clock.wanted.store(true, Ordering::Relaxed);
        }
        if self.clock.resting.load(Ordering::Relaxed)
            && let Some(thread) = self.clock.thread.get()
        {
            thread.unpark();
        }
    }

    /// A guest has had a turn and has not ended: the next ones are to be short.
    pub fn hurry(&self) {
        if !self.clock.hurried.swap(true, Ordering::SeqCst)
            && let Some(thread) = self.clock.thread.get()
        {
            thread.unpark();
        }
    }
}

impl Clock {
    /// Until the next tick. Whoever hurries it cuts a long pause short, and then has a turn.
    #[expect(clippy::disallowed_methods, reason = "the clock is a thread of its own")]
    fn pause(&self) {
        if !self.hurried.load(Ordering::SeqCst) {
            std::thread::park_timeout(TICK);
        }
        if self.hurried.swap(false, Ordering::SeqCst) {
            std::thread::sleep(TURN);
        }
    }
}

fn config(pool: bool) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.max_wasm_stack(MAX_STACK_BYTES);
    config.async_stack_size(FIBER_STACK_BYTES);
    // Traps are told by their cause and the top of the stack; more would only fill the log.
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(4));
    if pool {
        let mut slots = PoolingAllocationConfig::new();
        slots
            .total_component_instances(MAX_INSTANCES)
            .total_core_instances(MAX_INSTANCES * 8)
            .total_memories(MAX_INSTANCES)
            .total_tables(MAX_INSTANCES * 2)
            .total_stacks(MAX_INSTANCES)
            .max_core_instances_per_component(MAX_CORE_PER_COMPONENT)
            .max_memories_per_component(4)
            .max_tables_per_component(MAX_CORE_PER_COMPONENT)
            .max_component_instance_size(4 << 20)
            .max_core_instance_size(4 << 20)
            .table_elements(MAX_TABLE_ELEMENTS)
            .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
            .table_keep_resident(64 << 10)
            // Where the kernel can tell, only what an instance has touched is made clean again.
            .pagemap_scan(Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(slots));
    }
    config
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machine")
    }
}
