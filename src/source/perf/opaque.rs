//! Followed processes that have executed a 32-bit program, whose calls pass the tracepoints by.

use std::collections::BTreeMap;

use crate::diagnose::finding::Note;
use crate::units::Pid;

/// So many processes are named one by one.
const MOST_NAMED: usize = 20;

/// Processes of which nothing can be said but that they live, and how they end.
#[derive(Debug, Default)]
pub(super) struct OpaqueProcesses {
    /// The programs, by process.
    programs: BTreeMap<Pid, String>,
    beyond: u64,
}

impl OpaqueProcesses {
    /// A process has executed a 32-bit program.
    pub(super) fn see(&mut self, pid: Pid) {
        if self.programs.len() >= MOST_NAMED && !self.programs.contains_key(&pid) {
            self.beyond += 1;
            return;
        }
        let path = std::fs::read_link(format!("/proc/{pid}/exe"));
        let path = path.map_or_else(|_| "a program".to_owned(), |path| path.to_string_lossy().into_owned());
        self.programs.insert(pid, path);
    }

    /// What is to be said of them.
    pub(super) fn notes(&self) -> Vec<Note> {
        let consequence =
            "perf events do not show its system calls, so that nothing is known of what it maps and leaves";
        let advice = "use --engine ptrace";
        let of_one = |(pid, program): (&Pid, &String)| {
            let text = format!("process {pid} has executed a 32-bit program, {program}: {consequence}; {advice}");
            Note::incomplete(Some(*pid), 1, text)
        };
        let mut notes: Vec<Note> = self.programs.iter().map(of_one).collect();
        if self.beyond > 0 {
            let text = format!("{} more times a 32-bit program was executed, and not followed; {advice}", self.beyond);
            notes.push(Note::incomplete(None, self.beyond, text));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was not seen is told for each process, and counted beyond some.
    #[test]
    fn notes() {
        let mut opaque = OpaqueProcesses::default();
        assert_eq!(opaque.notes(), []);
        for number in 0..=MOST_NAMED as i32 {
            opaque.see(Pid(i32::MAX - number));
        }
        let notes = opaque.notes();
        assert_eq!(notes.len(), MOST_NAMED + 1);
        assert!(notes[0].text.contains("32-bit") && notes[0].text.contains("--engine ptrace"), "{notes:?}");
        assert_eq!(notes[MOST_NAMED].regions, 1);
    }
}
