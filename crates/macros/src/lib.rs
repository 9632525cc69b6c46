//! The attribute macros of `glowbox-guest`, which re-exports and documents them.
//!
//! Each leaves the function as it is and adds a constant block beside it: a record in one of the
//! guest's function sections (see `glowbox-abi`'s `record`), and a handler. Everything that depends
//! on what a type *is* is left to the compiler: the expansions ask by method resolution, so that
//! aliases and paths work as they do elsewhere.

#![forbid(unsafe_code)]

use proc_macro::TokenStream;

mod function;
mod signature;

/// Offers a function to the host.
///
/// Parameters and result are any serde types; parameters may borrow from the message (`&str`,
/// `&[u8]`, or a type that does), and the result may borrow from the parameters. The host calls it
/// by its name.
///
/// A function that returns `Result` may return an error: the host gets its text (from `Display`,
/// or else `Debug`) and, if it implements `Serialize`, its value. The guest stays usable. Anything
/// else that goes wrong in it ends the sandbox's life until it is reset.
///
/// ```ignore
/// #[guest_function]
/// fn parse(text: &str) -> Result<u32, core::num::ParseIntError> {
///     text.parse()
/// }
/// ```
///
/// # Errors
///
/// It does not compile on generic or async functions, on methods, and on functions with more than
/// twelve parameters.
#[proc_macro_attribute]
pub fn guest_function(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(function::guest_function(arguments.into(), item.into()))
}

/// Declares a function of the host, which the guest can then call like any other.
///
/// It has no body. The host must have registered a function of this name and signature, or it
/// refuses to build the sandbox. Parameters may be references; the result is an owned type.
///
/// Where the host refuses a call (its result is too large, or it is running already), a function
/// that returns `Result<_, E>` with `E: From<HostError>` returns that error; any other panics.
///
/// ```ignore
/// #[host_function]
/// fn weekday() -> String;
/// ```
///
/// # Errors
///
/// It does not compile on functions with a body, on generic or async functions, and with more than
/// twelve parameters.
#[proc_macro_attribute]
pub fn host_function(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(function::host_function(arguments.into(), item.into()))
}

/// Runs a function once, when the sandbox is built, before the first call.
///
/// It takes no parameters and returns nothing, or a `Result<(), E>` with `E: Display`; an error
/// fails the building of the sandbox with its text.
///
/// ```ignore
/// #[glowbox_guest::main]
/// fn main() -> Result<(), ConfigError> {
///     load_tables()
/// }
/// ```
///
/// In a guest with the standard library, one that is called `main` is also the program's `main`,
/// which ends with `glowbox_guest::serve()`.
///
/// # Errors
///
/// It does not compile on functions with parameters, and on generic or async functions.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(function::main(arguments.into(), item.into()))
}

fn expand(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(|error| error.to_compile_error()).into()
}
