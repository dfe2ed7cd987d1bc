//! One finding as a block: a title, and what is known, a labelled line each.

use std::io;
use std::time::Duration;

use colored::Colorize;

use super::super::layout::{COLUMNS, elide, glue, printable, width, wrap_call};
use super::super::words::{count, counted, duration, exact_size, growth, size};
use super::super::{Clock, Known, Report, notation};
use super::{INDENT, Page, TEXT_LIMIT, confidence};
use crate::abi::madv;
use crate::diagnose::finding::{Confidence, Evidence, EvidenceCall, Finding, Frame, Member, Reason, Recurrence, Rule};
use crate::event::{Call, Prot};
use crate::source::Follow;
use crate::symbols::plumbing::own_frames;
use crate::units::Tid;

/// More calls than this are cut in the middle.
const EVIDENCE_LINES: usize = 8;

/// Columns for one function's name: C++ and Rust have names of thousands of letters.
const SYMBOL: usize = 56;

/// Writes the block of one finding.
pub(super) fn write(page: &mut Page<'_>, finding: &Finding, report: &Report) -> io::Result<()> {
    title(page, finding, report)?;
    let one = finding.members.len() == 1;
    page.labelled(if one { "size" } else { "each" }, &region(finding, report.target.follow))?;
    if let Some(rate) = rate(finding, report) {
        page.labelled("growth", &rate)?;
    }
    if let (Some(Recurrence::Occasional), Some(created)) = (finding.recurrence, finding.created) {
        let left = count(finding.members.len() as u64);
        page.labelled("share", &format!("{left} of the {} that were created there", counted(created, "thread")))?;
    }
    if let Some(idle) = idle(finding, report) {
        page.labelled("idle", &idle)?;
    }
    match (&finding.thread_function, lifetime(finding).filter(|_| report.clock.known != Known::Order)) {
        (Some(function), None) => page.labelled("thread", &frame(function))?,
        (Some(function), Some(lives)) => page.labelled("thread", &format!("{}, lives {lives}", frame(function)))?,
        (None, Some(lives)) => page.labelled("lived", &lives)?,
        (None, None) => {}
    }
    let origin = if finding.rule == Rule::OrphanedMapping { "mapped" } else { "created" };
    if is_shape(finding) {
        // Whether a thread was ever created there is the question.
    } else if finding.site.is_empty() {
        page.labelled(origin, &creators(finding))?;
    } else {
        page.labelled(origin, &call_stack(&finding.site))?;
    }
    if !finding.mapped_site.is_empty() {
        page.labelled("mapped", &call_stack(&finding.mapped_site))?;
    }
    page.labelled("proof", &printable(&finding.proof, TEXT_LIMIT))?;
    example(page, finding, &report.clock)?;
    let fix = printable(&finding.advice, TEXT_LIMIT);
    page.hanging("  fix       ", INDENT, &fix, |label| label.green().bold())
}

fn title(page: &mut Page<'_>, finding: &Finding, report: &Report) -> io::Result<()> {
    let number = finding.members.len() as u64;
    let place = if finding.pid == report.target.pid { String::new() } else { format!(" in process {}", finding.pid) };
    let (were, them, threads) = if number == 1 { ("was", "it", "thread") } else { ("were", "them", "threads") };
    let so_far = if report.at_end { "" } else { " so far" };
    let what = match (finding.rule, finding.reason) {
        (Rule::OrphanedMapping, _) => {
            format!("{}{place} outlived the {threads} that made {them}", counted(number, "mapping"))
        }
        (Rule::OrphanedStack, Reason::PartlyUnmapped) => {
            format!("{}{place} {were} unmapped only in part{so_far}", counted(number, "thread stack"))
        }
        (Rule::OrphanedStack, _) if is_shape(finding) => {
            let like = if number == 1 { "looks like a thread stack" } else { "look like thread stacks" };
            format!("{}{place} {like} that nobody uses", counted(number, "mapping"))
        }
        (Rule::OrphanedStack, _) => {
            format!("{}{place} {were} never unmapped{so_far}", counted(number, "thread stack"))
        }
    };
    let bytes = size(finding.virtual_bytes());
    let verdict = match finding.recurrence {
        None => confidence(finding.confidence).to_owned(),
        Some(recurrence) => format!("{}, {}", confidence(finding.confidence), recurrence_name(recurrence)),
    };
    let mark = page.paint("LEAK", |mark| mark.red().bold());
    let painted = page.paint(
        &verdict,
        match finding.confidence {
            Confidence::Definite => |verdict| verdict.red().bold(),
            Confidence::Probable => |verdict| verdict.yellow().bold(),
            Confidence::Possible => |verdict| verdict.bold(),
        },
    );
    let room = COLUMNS - "LEAK  ".len();
    let titles = [format!("{what}: {bytes} of address space"), format!("{what}: {bytes}")];
    match titles.iter().find(|title| width(title) + 2 + width(&verdict) <= room) {
        Some(title) => {
            let gap = " ".repeat(room - width(title) - width(&verdict));
            let title = page.paint(title, |title| title.bold());
            writeln!(page.out, "{mark}  {title}{gap}{painted}")
        }
        None => {
            let gap = " ".repeat(COLUMNS - width(&verdict));
            let title = page.paint(&elide(&titles[0], room), |title| title.bold());
            writeln!(page.out, "{mark}  {title}\n{gap}{painted}")
        }
    }
}

/// Whether nothing but the looks of the mappings speaks for them: no thread was ever seen on one.
fn is_shape(finding: &Finding) -> bool {
    finding.confidence == Confidence::Possible
        && finding.reason == Reason::Unmanaged
        && finding.members.iter().all(|member| member.owner.is_none())
}

fn recurrence_name(recurrence: Recurrence) -> &'static str {
    match recurrence {
        Recurrence::Recurrent => "recurrent",
        Recurrence::Occasional => "occasional",
        Recurrence::OneTime => "one-time",
    }
}

/// What one region was, what is left of it, and how much of all is in memory.
fn region(finding: &Finding, follow: Option<Follow>) -> String {
    let (whole, guard) = (finding.region_bytes, finding.guard_bytes);
    let bytes = counted(whole, "byte");
    let mut text = match finding.rule {
        Rule::OrphanedMapping => format!("{bytes} = {}", exact_size(whole)),
        // A guard that madvise has made does not show.
        Rule::OrphanedStack if guard == 0 && follow == Some(Follow::Threads) => {
            format!("{bytes} = {} stack", exact_size(whole))
        }
        Rule::OrphanedStack if guard == 0 => {
            format!("{bytes} = {} stack without a guard", exact_size(whole))
        }
        Rule::OrphanedStack => {
            let stack = exact_size(whole.saturating_sub(guard));
            format!("{bytes} = {stack} stack + {} guard", exact_size(guard))
        }
    };
    let one = finding.members.len() == 1;
    let left = finding.members.iter().map(|member| member.virtual_bytes);
    if let (Reason::PartlyUnmapped, Some(least), Some(most)) = (finding.reason, left.clone().min(), left.max()) {
        let of_each = if one { "" } else { " of each" };
        match least == most {
            true => text.push_str(&format!(", {} still mapped{of_each}", exact_size(least))),
            false => text.push_str(&format!(", {} to {} still mapped", exact_size(least), exact_size(most))),
        }
    }
    match (finding.resident_bytes, one) {
        (None, _) => {}
        (Some(0), _) => text.push_str("; nothing of it resident"),
        (Some(resident), true) => text.push_str(&format!("; {}", glue(&format!("{} resident", size(resident))))),
        (Some(resident), false) => {
            text.push_str(&format!("; {}", glue(&format!("{} resident in all", size(resident)))));
        }
    }
    text
}

/// How it grows; none where too few came to tell.
fn rate(finding: &Finding, report: &Report) -> Option<String> {
    let births = finding.members.iter().filter_map(|member| member.born_at);
    let observed = births.clone().max()?.since(births.min()?);
    let growth = growth(finding.growth_bytes_per_second()?, observed);
    let mut text = match finding.period() {
        Some(period) => format!("one every {}: {growth}", duration(period)),
        None => format!("{growth}, at no steady interval"),
    };
    if let Some(bytes) = report.memory.virtual_bytes.filter(|_| finding.pid == report.target.pid) {
        match report.at_end {
            true => text.push_str(&format!("; VIRT {} at the end", size(bytes))),
            false => text.push_str(&format!("; VIRT now {}", size(bytes))),
        }
    }
    Some(text)
}

/// How long nobody has used them.
fn idle(finding: &Finding, report: &Report) -> Option<String> {
    if report.clock.known == Known::Order {
        return None;
    }
    let idle = finding.idle(crate::units::Time(report.followed))?;
    let (oldest, youngest) = (duration(idle.oldest), duration(idle.youngest));
    let when = if report.at_end { " at the end" } else { "" };
    Some(if finding.members.len() == 1 || oldest == youngest {
        format!("for {oldest}{when}")
    } else {
        format!("for {oldest} (the first) to {youngest} (the last){when}")
    })
}

/// How long the threads lived; none where a birth or an end was not seen.
fn lifetime(finding: &Finding) -> Option<String> {
    let lives = finding.members.iter().map(|member| Some(member.exited_at?.since(member.born_at?)));
    let lives: Vec<Duration> = lives.collect::<Option<_>>()?;
    let (shortest, longest) = (duration(*lives.iter().min()?), duration(*lives.iter().max()?));
    Some(if shortest == longest { longest } else { format!("{shortest} to {longest}") })
}

/// Who made the threads, where the call stacks do not tell.
fn creators(finding: &Finding) -> String {
    let mut creators: Vec<Tid> = finding.members.iter().filter_map(|member| member.creator).collect();
    creators.sort_unstable();
    creators.dedup();
    match creators.as_slice() {
        [one] => format!("by thread {one}"),
        [first, second] => format!("by threads {first} and {second}"),
        [first, second, third] => format!("by threads {first}, {second} and {third}"),
        [first, second, ..] => format!("by threads {first}, {second}, … ({} of them)", count(creators.len() as u64)),
        [] => "before vmtrace came".to_owned(),
    }
}

/// The call stack from the program's own innermost function outwards, in two lines at most.
fn call_stack(site: &[Frame]) -> String {
    let own = own_frames(site);
    let room = 2 * (COLUMNS - INDENT) - 20;
    let mut text = String::new();
    for (number, one) in own.iter().enumerate() {
        let name = glue(&frame(one));
        if number > 0 && width(&text) + 3 + width(&name) > room {
            text.push_str(&format!(" < … {} more", own.len() - number));
            break;
        }
        if number > 0 {
            text.push_str(" < ");
        }
        text.push_str(&name);
    }
    text
}

/// `start_minute_job (app.c:88)`, or the module and the offset where there is no name.
fn frame(frame: &Frame) -> String {
    let name = match &frame.symbol {
        Some(symbol) => function(symbol),
        None => format!("{}+{:#x}", printable(base_name(&frame.module), SYMBOL), frame.offset),
    };
    match (&frame.file, frame.line) {
        (Some(file), Some(line)) => format!("{name} ({}:{line})", printable(base_name(file), 32)),
        (Some(file), None) => format!("{name} ({})", printable(base_name(file), 32)),
        (None, _) => name,
    }
}

/// A function's name; where it is long without what stands between its brackets, of which C++ and Rust have plenty.
fn function(symbol: &str) -> String {
    if width(symbol) <= SYMBOL {
        return printable(symbol, SYMBOL);
    }
    let mut short = String::new();
    let (mut depth, mut before) = (0_usize, ' ');
    for character in symbol.chars() {
        match character {
            '<' | '(' => {
                if depth == 0 {
                    short.push(character);
                    short.push('…');
                }
                depth += 1;
            }
            '>' | ')' if before != '-' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    short.push(character);
                }
            }
            _ if depth == 0 => short.push(character),
            _ => {}
        }
        before = character;
    }
    printable(&short, SYMBOL)
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The calls of one member: of the latest among those of which most was seen.
fn example(page: &mut Page<'_>, finding: &Finding, clock: &Clock) -> io::Result<()> {
    let Some(member) = finding.members.iter().max_by_key(|member| member.evidence.len()) else {
        return Ok(());
    };
    if member.evidence.is_empty() {
        let (start, end) = (member.range.start(), member.range.end());
        if is_shape(finding) {
            return page.labelled("example", &format!("{start} to {end}"));
        }
        let was = if finding.rule == Rule::OrphanedStack { "the stack of" } else { "mapped by" };
        let whom =
            member.owner.map_or("a thread that ended before vmtrace came".to_owned(), |tid| format!("thread {tid}"));
        return page.labelled("example", &format!("{start} to {end}, {was} {whom}"));
    }
    let times = times(member, clock);
    let lead = times.iter().map(|time| width(time)).max().unwrap_or(0) + 2;
    let room = COLUMNS - INDENT - lead;
    let calls: Vec<(Vec<String>, &str)> = member
        .evidence
        .iter()
        .map(|evidence| (wrap_call(&notation::evidence_in_short(&evidence.what), room - 2), remark(evidence, finding)))
        .collect();
    let remarked = calls.iter().filter(|(_, remark)| !remark.is_empty());
    let ends = remarked.filter_map(|(lines, remark)| Some((width(lines.last()?) + 2, width(remark))));
    let remark_at = ends.filter(|(end, remark)| end + remark <= room).map(|(end, _)| end).max().unwrap_or(room);

    let skipped = skipped(calls.len());
    for (number, (time, (lines, remark))) in times.iter().zip(&calls).enumerate() {
        if skipped.contains(&number) {
            if number == skipped.start {
                writeln!(page.out, "{:INDENT$}… {}", "", counted(skipped.len() as u64, "more call"))?;
            }
            continue;
        }
        let label = if number == 0 { page.paint("  example   ", |label| label.dimmed()) } else { " ".repeat(INDENT) };
        for (row, line) in lines.iter().enumerate() {
            let is_last = row + 1 == lines.len();
            let before = match row {
                0 => format!("{label}{time}{:gap$}", "", gap = lead - width(time)),
                _ => " ".repeat(INDENT + lead + 2),
            };
            let fits = width(line) + 2 <= remark_at && remark_at + width(remark) <= room;
            if is_last && !remark.is_empty() && fits {
                let gap = " ".repeat(remark_at.saturating_sub(width(line)));
                writeln!(page.out, "{before}{line}{gap}{}", page.paint(remark, |remark| remark.dimmed()))?;
            } else {
                writeln!(page.out, "{before}{line}")?;
            }
        }
    }
    Ok(())
}

/// Which of so many calls are left out.
fn skipped(calls: usize) -> std::ops::Range<usize> {
    if calls <= EVIDENCE_LINES { 0..0 } else { EVIDENCE_LINES - 3..calls - 2 }
}

/// Time of day and thread of each call; with the date where they are of several days.
fn times(member: &Member, clock: &Clock) -> Vec<String> {
    if clock.known != Known::Moments {
        return member.evidence.iter().map(|one| format!("{}{}", clock.label(one.at, 3), one.tid)).collect();
    }
    let zoned = |evidence: &Evidence| clock.timestamp(evidence.at).to_zoned(clock.start.time_zone().clone());
    let dated = member.evidence.iter().any(|evidence| zoned(evidence).date() != clock.start.date());
    let format = if dated { "%b %e %H:%M:%S%.3f" } else { "%H:%M:%S%.3f" };
    member.evidence.iter().map(|one| format!("{} {}", zoned(one).strftime(format), one.tid)).collect()
}

/// What a reader should see in a call.
fn remark(evidence: &Evidence, finding: &Finding) -> &'static str {
    let partly = finding.reason == Reason::PartlyUnmapped;
    let EvidenceCall::Returned { call, .. } = &evidence.what else {
        return if partly { "" } else { "still mapped" };
    };
    match *call {
        Call::Mprotect { len, prot, .. } if Prot::from_bits(prot) == Prot::NONE && len == finding.guard_bytes => {
            "guard page"
        }
        Call::Madvise { advice: madv::GUARD_INSTALL, .. } => "guard page",
        Call::Munmap { .. } if partly => "only a part",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of long names the template arguments go first, then the end.
    #[test]
    fn long_names_lose_their_brackets() {
        let arguments = "std::vector<int, std::allocator<int>>, ".repeat(9);
        assert_eq!(function(&format!("a::pool<{arguments}>::run({arguments})")), "a::pool<…>::run(…)");
        assert_eq!(function(&format!("{}->x", "y".repeat(60))), format!("{}…", "y".repeat(SYMBOL - 1)));
        assert_eq!(function("short<int>(char)"), "short<int>(char)");
    }
}
