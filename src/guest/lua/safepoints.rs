//! Scripts that can be stopped wherever they are.
//!
//! The engine looks at the lease at calls and at the ends of loops alone. What lies between is short, unless it is written
//! out: hundreds of lines that compare, join or count with texts of megabytes take milliseconds each. Where more than a few
//! such operations follow each other, the script is compiled with the compiler's marks for coverage, at each statement or at
//! each expression, and these are replaced by jumps to the next instruction, at which the engine looks as at those of loops.
//!
//! Bytecode is read as the engine's `lvmload.cpp` reads it; the numbers are those of its `Bytecode.h`.

use std::ops::{Range, RangeInclusive};

use mlua::chunk::Compiler;
use mlua::{Error, Result};

/// Operations whose time grows with their operands that may follow each other before anything is put between them.
const FEW: u32 = 8;

/// As many as there may be with all marks: they stand in one expression, which only its author can part.
const MOST: u32 = 32;

/// What is marked for coverage: nothing, statements, statements and expressions.
const LEVELS: [u8; 3] = [0, 1, 2];

/// Versions of bytecode, and of the types in it, that have the form read here.
const VERSIONS: RangeInclusive<u8> = 4..=9;
const TYPES: RangeInclusive<u8> = 1..=3;

/// Instructions by their first byte.
mod op {
    use std::ops::RangeInclusive;

    pub const LOADB: u8 = 3;
    pub const CALL: u8 = 21;
    pub const RETURN: u8 = 22;
    pub const JUMP: u8 = 23;
    pub const JUMPBACK: u8 = 24;
    pub const JUMPIFLE: u8 = 28;
    pub const JUMPIFLT: u8 = 29;
    pub const JUMPIFNOTLE: u8 = 31;
    pub const JUMPIFNOTLT: u8 = 32;
    pub const ARITHMETIC: RangeInclusive<u8> = 33..=44;
    pub const CONCAT: u8 = 49;
    pub const MINUS: u8 = 51;
    pub const FORNPREP: u8 = 56;
    pub const FORNLOOP: u8 = 57;
    pub const FORGLOOP: u8 = 58;
    pub const FORGPREP_INEXT: u8 = 59;
    pub const FORGPREP_NEXT: u8 = 61;
    pub const JUMPX: u8 = 67;
    pub const COVERAGE: u8 = 69;
    pub const SUBRK: u8 = 71;
    pub const DIVRK: u8 = 72;
    pub const FORGPREP: u8 = 76;
    pub const JUMPXEQKNIL: u8 = 77;
    pub const JUMPXEQKS: u8 = 80;
    pub const IDIV: u8 = 81;
    pub const IDIVK: u8 = 82;
    /// The first that no version read here has.
    pub const UNKNOWN: u8 = 83;

    /// Those that a second word follows.
    pub fn is_long(op: u8) -> bool {
        matches!(op, 7 | 8 | 12 | 15 | 16 | 20 | 27..=32 | 53 | 55 | 58 | 60 | 66 | 74 | 75 | 77..=80)
    }
}

/// Compiles a source such that nothing in it runs for long without a look at the lease.
///
/// # Errors
/// What the compiler says, or where an expression has too many operations.
pub(super) fn compile(compiler: &Compiler, text: &str) -> Result<Vec<u8>> {
    let mut longest = Stretch::default();
    for level in LEVELS {
        let mut code = compiler.clone().set_coverage_level(level).compile(text)?;
        longest = Reader { bytes: &mut code, at: 0 }
            .chunk()
            .ok_or_else(|| Error::runtime("the engine compiles to bytecode that this gateway does not know"))?;
        if longest.operations <= FEW || level == LEVELS[LEVELS.len() - 1] && longest.operations <= MOST {
            return Ok(code);
        }
    }
    let Stretch { operations, line } = longest;
    let message = format!(
        ":{line}: has {operations} operations in one expression, and {MOST} is the most; give parts of it names of their own"
    );
    Err(Error::SyntaxError { message, incomplete_input: false })
}

/// Operations that follow each other without a safepoint.
#[derive(Default, Clone, Copy)]
struct Stretch {
    operations: u32,
    /// Where the last of them stands.
    line: u32,
}

/// Bytecode that is read, and its marks replaced; every step is None when there is less than it should be, or something else.
struct Reader<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Reader<'_> {
    /// The longest stretch of all functions.
    fn chunk(&mut self) -> Option<Stretch> {
        let (version, types) = (self.byte()?, self.byte()?);
        if !VERSIONS.contains(&version) || !TYPES.contains(&types) {
            return None;
        }
        for _ in 0..self.varint()? {
            let length = self.varint()?;
            self.skip(length)?;
        }
        if types == 3 {
            while self.byte()? != 0 {
                self.varint()?;
            }
        }
        let mut longest = Stretch::default();
        for _ in 0..self.varint()? {
            let found = self.function()?;
            if found.operations > longest.operations {
                longest = found;
            }
        }
        self.varint()?;
        (self.at == self.bytes.len()).then_some(longest)
    }

    fn function(&mut self) -> Option<Stretch> {
        // Sizes of the stack and the like, flags.
        self.skip(5)?;
        let types = self.varint()?;
        self.skip(types)?;
        let code = self.words()?;
        let (operations, at) = self.longest(&code)?;
        for _ in 0..self.varint()? {
            self.constant()?;
        }
        for _ in 0..self.varint()? {
            self.varint()?;
        }
        let defined = self.varint()?;
        // Its name.
        self.varint()?;
        let line = match self.byte()? {
            0 => u32::try_from(defined).ok()?,
            _ => self.line(code.len() / 4, at)?,
        };
        if self.byte()? != 0 {
            for _ in 0..self.varint()? {
                // A local's name, where it begins and ends, its register.
                for _ in 0..3 {
                    self.varint()?;
                }
                self.byte()?;
            }
            for _ in 0..self.varint()? {
                self.varint()?;
            }
        }
        Some(Stretch { operations, line })
    }

    /// The most operations that follow each other in some code, and the instruction at which they end. Replaces its marks.
    ///
    /// Whatever jumps back is a safepoint, so one look from the first instruction to the last sees every way.
    fn longest(&mut self, code: &Range<usize>) -> Option<(u32, usize)> {
        let length = code.len() / 4;
        let mut arriving = vec![0; length + 1];
        let (mut before, mut longest, mut at) = (0, (0, 0), 0);
        while at < length {
            let from = code.start + 4 * at;
            let word = &mut self.bytes[from..from + 4];
            if word[0] == op::COVERAGE {
                // Without an offset: to the next instruction.
                word[0] = op::JUMPBACK;
            }
            let [op, _, _, c] = *word else { return None };
            let here: u32 = arriving[at].max(before);
            let after = here + operations(op);
            if after > longest.0 {
                longest = (after, at);
            }
            let is_safepoint =
                matches!(op, op::CALL | op::RETURN | op::JUMPBACK | op::FORNLOOP | op::FORGLOOP | op::JUMPX);
            let offset = match op {
                _ if is_safepoint => None,
                op::LOADB => Some(usize::from(c)),
                _ if jumps(op) => Some(usize::try_from(i16::from_le_bytes([word[2], word[3]])).ok()?),
                op::UNKNOWN.. => return None,
                _ => None,
            };
            if let Some(offset) = offset {
                let target = arriving.get_mut(at + 1 + offset)?;
                *target = after.max(*target);
            }
            before = if is_safepoint || op == op::JUMP { 0 } else { after };
            at += if op::is_long(op) { 2 } else { 1 };
        }
        Some(longest)
    }

    /// The line of an instruction.
    fn line(&mut self, instructions: usize, at: usize) -> Option<u32> {
        let gap = u32::from(self.byte()?);
        let last = instructions.checked_sub(1)?;
        let from = self.at;
        self.skip(instructions)?;
        let within = self.bytes[from..=from + at].iter().fold(0_u8, |sum, step| sum.wrapping_add(*step));
        let mut line = 0_i32;
        for interval in 0..=last.checked_shr(gap)? {
            let step = self.bytes.get(self.at..self.at + 4)?;
            if interval <= at >> gap {
                line = line.wrapping_add(i32::from_le_bytes(step.try_into().ok()?));
            }
            self.skip(4)?;
        }
        u32::try_from(line).ok()?.checked_add(u32::from(within))
    }

    fn constant(&mut self) -> Option<()> {
        match self.byte()? {
            // nil
            0 => Some(()),
            // A boolean.
            1 => self.skip(1),
            // A number.
            2 => self.skip(8),
            // A text, a function.
            3 | 6 => self.varint().map(drop),
            // A global.
            4 => self.skip(4),
            // The shape of a table.
            5 => (0..self.varint()?).try_for_each(|_| self.varint().map(drop)),
            // A vector.
            7 => self.skip(16),
            // The shape of a table, with values.
            8 => (0..self.varint()?).try_for_each(|_| self.varint().and_then(|_| self.skip(4))),
            // An integer: its sign and what it is without.
            9 => self.skip(1).and_then(|()| self.varint().map(drop)),
            _ => None,
        }
    }

    /// Where some code stands that begins with its length in words of four bytes.
    fn words(&mut self) -> Option<Range<usize>> {
        let length = self.varint()?.checked_mul(4)?;
        let from = self.at;
        self.skip(length)?;
        Some(from..self.at)
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self) -> Option<usize> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return usize::try_from(value).ok();
            }
        }
        None
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.at = self.at.checked_add(bytes).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }
}

/// Operands of an instruction that it reads or writes whole, and that may be long texts.
fn operations(op: u8) -> u32 {
    match op {
        op::JUMPIFLE | op::JUMPIFLT | op::JUMPIFNOTLE | op::JUMPIFNOTLT => 1,
        op::CONCAT | op::MINUS | op::SUBRK | op::DIVRK | op::IDIV | op::IDIVK => 1,
        // Where it begins and ends, and its step.
        op::FORNPREP => 3,
        _ if op::ARITHMETIC.contains(&op) => 1,
        _ => 0,
    }
}

/// Whether an instruction, which is no safepoint, may go on elsewhere.
fn jumps(op: u8) -> bool {
    matches!(
        op,
        op::JUMP..=op::JUMPIFNOTLT
            | op::FORNPREP
            | op::FORGPREP
            | op::FORGPREP_INEXT
            | op::FORGPREP_NEXT
            | op::JUMPXEQKNIL..=op::JUMPXEQKS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &str) -> Result<Vec<u8>> {
        compile(&Compiler::new().set_optimization_level(1).set_debug_level(1), text)
    }

    /// The longest stretch of a source at a level of marks.
    fn stretch(text: &str, level: u8) -> (u32, u32) {
        let mut code = Compiler::new().set_coverage_level(level).compile(text).expect("compiles");
        let found = Reader { bytes: &mut code, at: 0 }.chunk().expect("is read");
        (found.operations, found.line)
    }

    #[test]
    fn stretches_are_as_long_as_the_longest_way_through_them() {
        for (text, operations, line) in [
            ("", 0, 0),
            ("local a, b = ...\nlocal c = a + b\nlocal d = c - 1 .. a\nreturn -d < a", 5, 4),
            // One side or the other, and what follows.
            ("local a = ...\nif a then a += 1 a += 2\nelse a += 1 end\nreturn a * 2", 3, 4),
            // A call on one way only parts nothing; on every way it does.
            ("local a, f = ...\na += 1\nif a then f() end\nreturn a + 1", 2, 4),
            ("local a, f = ...\na += 1\nf()\nreturn a + 1", 1, 2),
            // Loops look at their ends, whether they begin or not.
            ("local a = ...\na += 1\nwhile a do a += 1 if a then continue end a += 2 end\na += 3", 3, 3),
            ("local a = ...\na += 1\nfor i = a, 9 do a += i end\nreturn a + 1", 5, 3),
            ("local a = ...\na += 1\nfor k in a do a += k break end\nreturn a + 1", 3, 4),
            ("local a = ...\nrepeat a += 1 local b = a until b > 3\nreturn a", 2, 2),
            ("local a = ...\nlocal b = a > 3 and a < 7 or a + 1\nreturn b ^ 2", 4, 3),
            ("local function f(a) return a + 1 + 2 + 3 end\nreturn f", 3, 1),
            ("local t = { a = 1, b = { 2, 'x' } }\nreturn t.a // 2, vector.create(1, 2, 3), { ... }", 1, 2),
        ] {
            assert_eq!(stretch(text, 0), (operations, line), "{text}");
        }
    }

    #[test]
    fn marks_part_statements_and_then_expressions() {
        let statements = "local a = ...\n".to_owned() + &"a = a + 1\n".repeat(300);
        assert_eq!([0, 1].map(|level| stretch(&statements, level).0), [300, 1]);
        let fields = format!("local a = ...\nreturn {{ {} }}", "a + 1, ".repeat(300));
        assert_eq!([0, 1, 2].map(|level| stretch(&fields, level).0), [300, 300, 1]);
        for text in [statements, fields] {
            assert!(compiled(&text).is_ok());
        }
    }

    #[test]
    fn an_expression_that_marks_cannot_part_is_refused_with_its_line() {
        let sum = |terms: usize| format!("local a = ...\nlocal b = 1{}\nreturn b", " + a".repeat(terms));
        assert!(compiled(&sum(32)).is_ok());
        let refused = compiled(&sum(33)).expect_err("is too long").to_string();
        assert!(refused.contains(":2: has 33 operations in one expression"), "{refused}");
    }

    #[test]
    fn nothing_but_bytecode_is_read() {
        let mut code = compiled("local a = ...\nreturn a + 1").expect("compiles");
        for length in 0..code.len() {
            assert!(Reader { bytes: &mut code[..length], at: 0 }.chunk().is_none(), "{length}");
        }
        for byte in 0..code.len() {
            for value in [0, 0x7f, 0xff] {
                let mut other = code.clone();
                other[byte] = value;
                // It says something, and ends.
                Reader { bytes: &mut other, at: 0 }.chunk();
            }
        }
    }
}
