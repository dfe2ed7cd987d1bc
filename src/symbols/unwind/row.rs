//! One row of call frame information: how the registers of the caller are found, at one place in code.
//!
//! DWARF 5, section 6.4. A row owns all that it needs, expressions included, so that it outlives the file's sections.

use std::collections::HashMap;
use std::hash::Hash;

use gimli::{Encoding, EndianSlice, EvaluationResult, Expression, Format, LittleEndian, UnwindSection, Value};

use super::memory::{self, Memory};
use super::registers::{self, Registers};

/// Steps of an expression; real ones have ten.
const MOST_STEPS: u32 = 500;

/// Bytes of an expression; real ones have ten.
const LONGEST_EXPRESSION: usize = 512;

/// Memory for the rows that are kept, in bytes; when they have more, all are forgotten. A usual row has 200.
const MOST_BYTES: usize = 16 << 20;

/// The rows that are known, by `K`: none where there is none.
#[derive(Debug)]
pub struct Rows<K> {
    rows: HashMap<K, Option<Row>>,
    /// Memory that they take.
    bytes: usize,
}

impl<K> Default for Rows<K> {
    fn default() -> Rows<K> {
        Rows { rows: HashMap::new(), bytes: 0 }
    }
}

impl<K: Eq + Hash> Rows<K> {
    /// The row that goes by `key`, which `make` makes where it is not known.
    pub fn get(&mut self, key: K, make: impl FnOnce() -> Option<Row>) -> Option<&Row> {
        if self.bytes >= MOST_BYTES && !self.rows.contains_key(&key) {
            self.rows.clear();
            self.bytes = 0;
        }
        let Rows { rows, bytes } = self;
        let row = rows.entry(key).or_insert_with(|| {
            let row = make();
            *bytes += size_of::<(K, Option<Row>)>() + row.as_ref().map_or(0, Row::bytes);
            row
        });
        row.as_ref()
    }
}

/// How the caller's registers follow from a frame's.
#[derive(Clone, Debug)]
pub struct Row {
    cfa: Cfa,
    rules: Box<[(u8, Rule)]>,
    return_column: u8,
    /// Where the function starts, at the address for which it was linked.
    pub function: u64,
    /// Whether the caller is code that a signal has interrupted.
    pub is_signal_frame: bool,
}

/// The canonical frame address: the stack pointer before the call.
#[derive(Clone, Debug)]
enum Cfa {
    Offset { register: u8, offset: i64 },
    Expression(Box<[u8]>),
}

/// Where a register of the caller is.
#[derive(Clone, Debug)]
enum Rule {
    Undefined,
    Constant(u64),
    Register(u8),
    /// In memory, so far from the canonical frame address.
    At(i64),
    /// The canonical frame address and so much.
    Value(i64),
    AtExpression(Box<[u8]>),
    ValueExpression(Box<[u8]>),
}

/// What lies above a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Above {
    /// The caller, with its registers.
    Caller(Registers),
    /// Nothing: the return address is undefined, which marks the outermost frame.
    Nothing,
    /// Something that could not be found.
    Unknown,
}

impl Row {
    /// A row of a gimli table; none where it uses what no x86 code uses.
    pub fn new<'data, Section>(
        row: &gimli::UnwindTableRow<usize>,
        section: &Section,
        fde: &gimli::FrameDescriptionEntry<EndianSlice<'data, LittleEndian>>,
    ) -> Option<Row>
    where
        Section: UnwindSection<EndianSlice<'data, LittleEndian>>,
    {
        use gimli::{CfaRule, RegisterRule};
        let bytes = |expression: &gimli::UnwindExpression<usize>| -> Option<Box<[u8]>> {
            let bytes = expression.get(section).ok()?.0.slice();
            (bytes.len() <= LONGEST_EXPRESSION).then(|| bytes.into())
        };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                Cfa::Offset { register: u8::try_from(register.0).ok()?, offset: *offset }
            }
            CfaRule::Expression(expression) => Cfa::Expression(bytes(expression)?),
        };
        let mut rules = Vec::new();
        for (register, rule) in row.registers() {
            // Registers past the general ones are not kept, nor are rules for them.
            let Some(register) = u8::try_from(register.0).ok().filter(|number| usize::from(*number) < registers::MOST)
            else {
                continue;
            };
            let rule = match rule {
                RegisterRule::SameValue => continue,
                RegisterRule::Constant(value) => Rule::Constant(*value),
                RegisterRule::Register(other) => Rule::Register(u8::try_from(other.0).ok()?),
                RegisterRule::Offset(offset) => Rule::At(*offset),
                RegisterRule::ValOffset(offset) => Rule::Value(*offset),
                RegisterRule::Expression(expression) => Rule::AtExpression(bytes(expression)?),
                RegisterRule::ValExpression(expression) => Rule::ValueExpression(bytes(expression)?),
                RegisterRule::Undefined | RegisterRule::Architectural => Rule::Undefined,
            };
            rules.push((register, rule));
        }
        Some(Row {
            cfa,
            rules: rules.into(),
            return_column: u8::try_from(fde.cie().return_address_register().0).ok()?,
            function: fde.initial_address(),
            is_signal_frame: fde.is_signal_trampoline(),
        })
    }

    /// Memory that it takes beside itself.
    pub fn bytes(&self) -> usize {
        let rule = |rule: &Rule| match rule {
            Rule::AtExpression(expression) | Rule::ValueExpression(expression) => expression.len(),
            _ => 0,
        };
        let cfa = match &self.cfa {
            Cfa::Expression(expression) => expression.len(),
            Cfa::Offset { .. } => 0,
        };
        cfa + size_of_val(&*self.rules) + self.rules.iter().map(|(_, one)| rule(one)).sum::<usize>()
    }

    /// Whether the canonical frame address may be counted from this register.
    pub fn rests_on(&self, number: u8) -> bool {
        match self.cfa {
            Cfa::Offset { register, .. } => register == number,
            Cfa::Expression(_) => true,
        }
    }

    /// The registers of the caller of a frame.
    pub fn caller(&self, frame: &Registers, memory: &mut dyn Memory) -> Above {
        let machine = frame.machine();
        if matches!(self.rule(self.return_column), Some(Rule::Undefined)) {
            return Above::Nothing;
        }
        let Some(cfa) = self.cfa(frame, memory) else { return Above::Unknown };
        let mut caller = Registers::unknown(machine);
        for (number, value) in frame.known() {
            // By convention, what no rule speaks of is as it was if functions preserve it. A signal preserves all.
            if self.is_signal_frame || machine.is_preserved(number) {
                match frame.is_doubtful(number) {
                    true => caller.set_doubtful(number, value),
                    false => caller.set(number, value),
                }
            }
        }
        caller.set_sp(cfa);
        caller.forget(machine.pc());
        for (number, rule) in &self.rules {
            match rule.value(cfa, frame, memory) {
                Some(value) => caller.set(*number, value),
                None => caller.forget(*number),
            }
        }
        let Some(pc) = caller.get(self.return_column) else { return Above::Unknown };
        caller.set_pc(pc);
        Above::Caller(caller)
    }

    fn rule(&self, number: u8) -> Option<&Rule> {
        self.rules.iter().find(|(of, _)| *of == number).map(|(_, rule)| rule)
    }

    fn cfa(&self, frame: &Registers, memory: &mut dyn Memory) -> Option<u64> {
        let cfa = match &self.cfa {
            Cfa::Offset { register, offset } => frame.get(*register)?.wrapping_add_signed(*offset),
            Cfa::Expression(expression) => evaluate(expression, None, frame, memory)?,
        };
        Some(frame.machine().truncate(cfa))
    }
}

impl Rule {
    fn value(&self, cfa: u64, frame: &Registers, memory: &mut dyn Memory) -> Option<u64> {
        let machine = frame.machine();
        match self {
            Rule::Undefined => None,
            Rule::Constant(value) => Some(*value),
            Rule::Register(other) => frame.get(*other),
            Rule::At(offset) => memory::word(memory, machine, cfa.wrapping_add_signed(*offset)),
            Rule::Value(offset) => Some(cfa.wrapping_add_signed(*offset)),
            Rule::AtExpression(expression) => {
                let addr = evaluate(expression, Some(cfa), frame, memory)?;
                memory::word(memory, machine, addr)
            }
            Rule::ValueExpression(expression) => evaluate(expression, Some(cfa), frame, memory),
        }
    }
}

/// The value that a DWARF expression leaves; `initial` is on the stack when it begins.
fn evaluate(bytes: &[u8], initial: Option<u64>, frame: &Registers, memory: &mut dyn Memory) -> Option<u64> {
    let machine = frame.machine();
    let encoding = Encoding { address_size: machine.word(), format: Format::Dwarf32, version: 4 };
    let mut evaluation = Expression(EndianSlice::new(bytes, LittleEndian)).evaluation(encoding);
    evaluation.set_max_iterations(MOST_STEPS);
    if let Some(initial) = initial {
        evaluation.set_initial_value(initial);
    }
    let mut state = evaluation.evaluate().ok()?;
    loop {
        state = match state {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory { address, size, space: None, .. } => {
                let value = memory::number(memory, machine.truncate(address), size)?;
                evaluation.resume_with_memory(Value::Generic(value)).ok()?
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = frame.get(u8::try_from(register.0).ok()?)?;
                evaluation.resume_with_register(Value::Generic(value)).ok()?
            }
            _ => return None,
        };
    }
    let [piece] = &*evaluation.result() else { return None };
    match piece.location {
        gimli::Location::Address { address } => Some(address),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are forgotten when they take too much, whatever they hold, and made again when they are wanted.
    #[test]
    fn rows_are_bounded() {
        let large = || {
            let rule = |number| (number, Rule::ValueExpression([0; LONGEST_EXPRESSION].into()));
            let cfa = Cfa::Offset { register: 7, offset: 16 };
            Row { cfa, rules: (0..16).map(rule).collect(), return_column: 16, function: 0, is_signal_frame: false }
        };
        let one = large().bytes();
        assert!(one > 16 * LONGEST_EXPRESSION);
        let mut rows = Rows::default();
        for number in 0..2 * MOST_BYTES / one {
            let row = Row { function: number as u64, ..large() };
            assert_eq!(rows.get(number, || Some(row)).unwrap().function, number as u64);
            assert_eq!(rows.get(number, || panic!("it is known")).unwrap().function, number as u64);
            assert!(rows.rows.len() * one <= MOST_BYTES + one, "{} rows", rows.rows.len());
        }
        assert!(rows.rows.len() > 1);
        // That there is none is remembered, and takes memory too.
        let mut none = Rows { bytes: MOST_BYTES - 1, ..Rows::default() };
        assert!(none.get(1, || None).is_none() && none.bytes >= MOST_BYTES);
        assert!(none.get(1, || panic!("it is known")).is_none());
        assert!(none.get(2, || None).is_none() && none.rows.len() == 1);
    }
}
