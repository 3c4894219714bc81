//! What an exchange cost: the price catalogue and the arithmetic on usage.
//!
//! Money is integer nano-dollars (10⁻⁹ USD) and prices are nano-dollars per million tokens; no float takes part. A
//! price that the catalogue does not state is unknown: never zero, never taken from a similar name.

pub mod catalogue;
pub mod decimal;
pub mod price;

pub use catalogue::{BadCatalogue, Catalogue, Modality, ModelCard};
pub use decimal::{nano_to_decimal, nano_to_f64, write_dollars};
pub use price::{Cost, Price, Rates, Stated, Tier};

#[cfg(test)]
mod tests;
