//! Medians, and the table that is printed.

/// What was measured, one line for each contender.
#[derive(Default)]
pub struct Table {
    /// What is compared with the others: the first line if there is none of this name.
    base: &'static str,
    unit: &'static str,
    lines: Vec<(String, f64)>,
}

impl Table {
    /// A table of amounts in `unit`, each divided by that of `base` as well.
    pub fn new(unit: &'static str, base: &'static str) -> Table {
        Table { base, unit, lines: Vec::new() }
    }

    /// Adds a line: the median of what was measured. Nothing is added where nothing was.
    pub fn add(&mut self, name: &str, amounts: &mut [f64]) {
        amounts.sort_by(f64::total_cmp);
        if let Some(median) = amounts.get(amounts.len() / 2) {
            self.lines.push((name.to_owned(), *median));
        }
    }

    /// As Markdown.
    pub fn print(&self, name: &str) {
        let base = self.lines.iter().find(|(name, _)| name == self.base).or(self.lines.first());
        let base = base.map(|(_, amount)| *amount);
        println!("\n| {name} | {} | ratio |\n|---|---:|---:|", self.unit);
        for (name, amount) in &self.lines {
            let ratio = base.map_or(String::new(), |base| format!("{:.2}", amount / base));
            let digits = if *amount < 10.0 { 3 } else { 1 };
            println!("| {name} | {amount:.digits$} | {ratio} |");
        }
    }
}
