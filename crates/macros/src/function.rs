//! The expansions.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::ext::IdentExt;
use syn::{Error, ForeignItemFn, Ident, ItemFn, Result, Safety, Type};

use crate::signature::{Parameter, is_result, parameters, pieces, result, with_inferred};

/// Brings the prelude into scope beside the function, so that its signature can use it. Written
/// several times in one module it is still one set of names.
fn prelude() -> TokenStream {
    quote! {
        #[allow(unused_imports)]
        use ::glowbox_guest::prelude::*;
    }
}

fn no_arguments(arguments: &TokenStream) -> Result<()> {
    if arguments.is_empty() {
        return Ok(());
    }
    Err(Error::new_spanned(arguments, "this attribute takes no arguments"))
}

/// The record in `section` for the function `name`, as a static `RECORD`.
fn record(
    section: &str,
    kind: TokenStream,
    of: TokenStream,
    handler: TokenStream,
    name: &Ident,
    pieces: &TokenStream,
) -> TokenStream {
    let name = name.unraw().to_string();
    quote! {
        const NAME: &[gb::Piece] = &[gb::Piece::Text(#name)];
        const SIGNATURE: &[gb::Piece] = #pieces;
        const LENGTH: usize = gb::measure(NAME) + gb::measure(SIGNATURE);
        const TEXT: [u8; LENGTH] = {
            let name: [u8; gb::measure(NAME)] = gb::render(NAME);
            let signature: [u8; gb::measure(SIGNATURE)] = gb::render(SIGNATURE);
            let mut text = [0; LENGTH];
            text.split_at_mut(name.len()).0.copy_from_slice(&name);
            text.split_at_mut(name.len()).1.copy_from_slice(&signature);
            text
        };
        #[used]
        #[unsafe(link_section = #section)]
        static RECORD: gb::#of<LENGTH> =
            gb::Record::new(gb::Kind::#kind, #handler, 0, gb::measure(NAME), TEXT);
    }
}

/// The record of what the guest offers, which leads to the function `__glowbox_handler` beside it.
fn export_record(kind: TokenStream, name: &Ident, pieces: &TokenStream) -> TokenStream {
    let handler = quote!(__glowbox_handler as gb::ExportHandler);
    record("glowbox_exports", kind, quote!(ExportRecord), handler, name, pieces)
}

/// A variable of the expansion's own, which the names in a guest can't meet.
fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

pub(crate) fn guest_function(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    no_arguments(&arguments)?;
    let function: ItemFn = syn::parse2(item)?;
    let parameters = parameters(&function.sig)?;
    let returned = result(&function.sig);
    let name = &function.sig.ident;
    let record = export_record(quote!(Function), name, &pieces(&parameters, &returned));
    let [bytes, message] = ["bytes", "message"].map(local);
    let decode = parameters.iter().map(|Parameter { ident, of, .. }| {
        let of = with_inferred(of);
        quote! {
            let (#ident, #bytes) = match gb::decode::<#of>(#bytes) {
                ::core::result::Result::Ok(decoded) => decoded,
                ::core::result::Result::Err(_) => return gb::bad_arguments(),
            };
        }
    });
    let idents = parameters.iter().map(|parameter| &parameter.ident);
    if let Safety::Unsafe(token) = &function.sig.safety {
        let text = "a guest function is called by the host, which can't keep unsafe promises";
        return Err(Error::new_spanned(token, text));
    }
    let finish = finish(&quote!(#name(#(#idents),*)), &returned);
    let prelude = prelude();
    // A function of its own, so that a fault in it is reported under its name.
    let has_inline = function.attrs.iter().any(|attribute| attribute.path().is_ident("inline"));
    let inline = if has_inline { quote!() } else { quote!(#[inline(never)]) };
    Ok(quote! {
        #prelude
        #inline
        #function
        const _: () = {
            use ::glowbox_guest::__private as gb;
            use gb::{Untyped as _, DisplayText as _, DebugText as _, NoText as _};
            use gb::{SerializePayload as _, TextPayload as _};
            #record
            fn __glowbox_handler(#message: &gb::Message) -> gb::FromGuest {
                let #bytes = #message.bytes();
                #(#decode)*
                if !#bytes.is_empty() {
                    return gb::bad_arguments();
                }
                #finish
            }
        };
    })
}

fn finish(call: &TokenStream, returned: &Type) -> TokenStream {
    if !is_result(returned) {
        return quote!(gb::return_value(&#call));
    }
    let [value, error, text, space] = ["value", "error", "text", "space"].map(local);
    quote! {
        match #call {
            ::core::result::Result::Ok(#value) => gb::return_ok(&#value),
            ::core::result::Result::Err(#error) => {
                let #text = (&&&gb::Text(&#error)).text();
                gb::return_error(&#text, |#space| (&&gb::Payload(&#error)).encode(&#text, #space))
            }
        }
    }
}

pub(crate) fn host_function(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    no_arguments(&arguments)?;
    let declaration: ForeignItemFn = syn::parse2(item).map_err(|error| {
        let text = "a host function is declared without a body: `fn name(…) -> …;`";
        Error::new(error.span(), text)
    })?;
    let ForeignItemFn { attrs, vis, sig, .. } = &declaration;
    let parameters = parameters(sig)?;
    let returned = result(sig);
    let record = record(
        "glowbox_imports",
        quote!(Import),
        quote!(ImportRecord),
        quote!(0),
        &sig.ident,
        &pieces(&parameters, &returned),
    );
    let (name, output, lifetimes) = (&sig.ident, &sig.output, &sig.generics);
    let inputs = parameters.iter().map(|Parameter { ident, of, .. }| quote!(#ident: #of));
    let idents: Vec<_> = parameters.iter().map(|parameter| &parameter.ident).collect();
    let raised = with_inferred(&returned);
    let [reply, space, used] = ["reply", "space", "used"].map(local);
    let prelude = prelude();
    Ok(quote! {
        #prelude
        #(#attrs)*
        #[track_caller]
        #vis fn #name #lifetimes(#(#inputs),*) #output {
            use ::glowbox_guest::__private as gb;
            use gb::{Untyped as _, RaiseAsError as _, RaiseAsPanic as _};
            #record
            let #reply = gb::call_host(gb::import_number(&RECORD), |#space| {
                let #used = 0;
                #(
                    let #used = #used + gb::encode(&#idents, &mut #space[#used..])?;
                )*
                let _ = #space;
                ::core::result::Result::Ok(#used)
            });
            match #reply {
                ::core::result::Result::Ok(#reply) => #reply,
                ::core::result::Result::Err(#reply) => {
                    (&&gb::Raise::<#raised>(::core::marker::PhantomData)).raise(#reply)
                }
            }
        }
    })
}

pub(crate) fn main(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    no_arguments(&arguments)?;
    let function: ItemFn = syn::parse2(item)?;
    let parameters = parameters(&function.sig)?;
    if !parameters.is_empty() {
        let text = "the start-up function takes no parameters";
        return Err(Error::new_spanned(&function.sig.inputs, text));
    }
    let name = &function.sig.ident;
    let record = export_record(quote!(Main), name, &quote!(&[gb::Piece::Text("()")]));
    let prelude = prelude();
    let start_up = quote! {
        #function
        const _: () = {
            use ::glowbox_guest::__private as gb;
            #record
            fn __glowbox_handler(_: &gb::Message) -> gb::FromGuest {
                gb::run_main(#name)
            }
        };
    };
    if name != "main" {
        return Ok(quote!(#prelude #start_up));
    }
    // With the standard library there has to be a `main` of another kind, too.
    Ok(quote! {
        #prelude
        ::glowbox_guest::__start_up! { #start_up }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(result: Result<TokenStream>, words: &str) {
        let error = result.expect_err("this must not compile").to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn what_cannot_cross_the_border_is_refused_with_the_reason() {
        let guest = |item| guest_function(TokenStream::new(), item);
        refused(
            guest(quote!(
                fn f<T>(a: T) {}
            )),
            "can't be generic",
        );
        refused(
            guest(quote!(
                fn f<const N: usize>(a: [u8; N]) {}
            )),
            "can't be generic",
        );
        refused(
            guest(quote!(
                async fn f() {}
            )),
            "can't be async",
        );
        refused(
            guest(quote!(
                unsafe fn f() {}
            )),
            "unsafe",
        );
        refused(
            guest(quote!(
                fn f(&self) {}
            )),
            "free function",
        );
        refused(
            guest(quote!(
                fn f(a: impl Copy) {}
            )),
            "name the type",
        );
        let thirteen = (0..13).map(|n| quote::format_ident!("a{n}"));
        refused(guest(quote!(fn f(#(#thirteen: u8),*) {})), "at most twelve parameters");
        assert!(
            guest(quote!(
                struct S;
            ))
            .is_err()
        );
        refused(
            guest_function(
                quote!(name = "x"),
                quote!(
                    fn f() {}
                ),
            ),
            "takes no arguments",
        );
    }

    #[test]
    fn a_host_function_has_no_body_and_a_start_up_function_no_parameters() {
        let host = |item| host_function(TokenStream::new(), item);
        refused(
            host(quote!(
                fn f() -> u8 {
                    1
                }
            )),
            "without a body",
        );
        refused(
            host(quote!(
                fn f<T>(a: T);
            )),
            "can't be generic",
        );
        assert!(
            host(quote!(
                pub(crate) fn f<'a>(a: &'a str, b: &[u8]) -> u8;
            ))
            .is_ok()
        );
        refused(
            main(
                TokenStream::new(),
                quote!(
                    fn main(a: u8) {}
                ),
            ),
            "no parameters",
        );
        assert!(
            main(
                TokenStream::new(),
                quote!(
                    fn main() {}
                )
            )
            .is_ok()
        );
    }
}
