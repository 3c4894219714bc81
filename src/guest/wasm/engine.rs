//! The one engine of the process: how components are compiled, and how much they may take together. The clock of all
//! guests stops them.
//!
//! Knows nothing of what a component is for. Outlives every generation, as compiled code belongs to it.

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::host::ticker;

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

/// The engine.
pub struct Machine {
    pub engine: Engine,
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
        let weak = engine.weak();
        ticker::at_each_tick(move || weak.upgrade().map(|engine| engine.increment_epoch()).is_some());
        Ok(Machine { engine })
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
