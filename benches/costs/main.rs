mod model;
fn main() {
    for places in [model::Places::InOrder, model::Places::AtRandom] {
        println!("{places:?} {:.2} M/s", model::events_per_second(places, 4_000_000) / 1e6);
    }
}
