//! Medians, and the table that is printed.

/// The middle one; none of none.
pub fn median(amounts: &mut [f64]) -> Option<f64> {
    amounts.sort_by(f64::total_cmp);
    amounts.get(amounts.len() / 2).copied()
}

/// What was measured, one line for each contender.
pub struct Table {
    /// What is compared with the others: the first line if there is none of this name.
    base: &'static str,
    unit: &'static str,
    lines: Vec<Line>,
}

struct Line {
    name: String,
    amount: f64,
    /// To the base; none for that of the medians.
    ratio: Option<f64>,
}

impl Table {
    /// A table of amounts in `unit`, each divided by that of `base` as well.
    pub fn new(unit: &'static str, base: &'static str) -> Table {
        Table { base, unit, lines: Vec::new() }
    }

    /// Adds a line: the median of what was measured. Nothing is added where nothing was.
    pub fn add(&mut self, name: &str, amounts: &mut [f64]) {
        let name = name.to_owned();
        self.lines.extend(median(amounts).map(|amount| Line { name, amount, ratio: None }));
    }

    /// Adds a line with a ratio of its own: where runs that follow on each other were compared, what changes slowly is
    /// not in it.
    pub fn add_ratio(&mut self, name: String, amount: f64, ratio: f64) {
        self.lines.push(Line { name, amount, ratio: Some(ratio) });
    }

    /// As Markdown.
    pub fn print(&self, name: &str) {
        let base = self.lines.iter().find(|line| line.name == self.base).or(self.lines.first());
        let base = base.map_or(f64::NAN, |line| line.amount);
        println!("\n| {name} | {} | ratio |\n|---|---:|---:|", self.unit);
        for Line { name, amount, ratio } in &self.lines {
            let ratio = ratio.unwrap_or(amount / base);
            let digits = if *amount < 10.0 { 3 } else { 1 };
            println!("| {name} | {amount:.digits$} | {ratio:.2} |");
        }
    }
}
