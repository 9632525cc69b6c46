//! What the macros read from a function's signature.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::visit_mut::VisitMut;
use syn::{Error, FnArg, GenericArgument, Ident, Lifetime, Pat, PathArguments};
use syn::{Result, ReturnType, Signature, Type, TypeReference};

/// Most parameters of a function.
const MAX_PARAMETERS: usize = 12;

/// One parameter.
pub(crate) struct Parameter {
    /// Its name for people; empty for a pattern.
    pub(crate) name: String,
    /// A name that an expansion can use.
    pub(crate) ident: Ident,
    pub(crate) of: Type,
}

/// Checks what holds for every function, and reads its parameters.
pub(crate) fn parameters(signature: &Signature) -> Result<Vec<Parameter>> {
    refuse(signature.generics.type_params().next(), "generic")?;
    refuse(signature.generics.const_params().next(), "generic")?;
    refuse(signature.asyncness.as_ref(), "async")?;
    refuse(signature.variadic.as_ref(), "variadic")?;
    if let Some(parameter) = signature.inputs.iter().nth(MAX_PARAMETERS) {
        let text = "a function called across the sandbox's border has at most twelve parameters";
        return Err(Error::new_spanned(parameter, text));
    }
    signature.inputs.iter().enumerate().map(|(index, input)| parameter(index, input)).collect()
}

fn refuse(found: Option<impl quote::ToTokens>, what: &str) -> Result<()> {
    match found {
        Some(tokens) => {
            let text = format!("a function called across the sandbox's border can't be {what}");
            Err(Error::new_spanned(tokens, text))
        }
        None => Ok(()),
    }
}

fn parameter(index: usize, input: &FnArg) -> Result<Parameter> {
    match input {
        FnArg::Receiver(receiver) => Err(Error::new_spanned(
            receiver,
            "a method can't be called across the sandbox's border; use a free function",
        )),
        FnArg::Typed(typed) => {
            if let Type::ImplTrait(of) = &*typed.ty {
                return Err(Error::new_spanned(of, "name the type: its encoding must be known"));
            }
            let name = match &*typed.pat {
                Pat::Ident(pattern) => pattern.ident.unraw().to_string(),
                _ => String::new(),
            };
            let of = (*typed.ty).clone();
            Ok(Parameter { name, ident: format_ident!("argument_{index}"), of })
        }
    }
}

/// The type a function returns.
pub(crate) fn result(signature: &Signature) -> Type {
    match &signature.output {
        ReturnType::Default => syn::parse_quote!(()),
        ReturnType::Type(_, of) => (**of).clone(),
    }
}

/// Whether a type is written as `Result<…>`, by whatever path or alias of that name.
pub(crate) fn is_result(of: &Type) -> bool {
    last_segment(of).is_some_and(|segment| segment.ident == "Result")
}

fn last_segment(of: &Type) -> Option<&syn::PathSegment> {
    match of {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    }
}

/// Replaces every lifetime, written or not.
struct Lifetimes(&'static str);

impl VisitMut for Lifetimes {
    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        *lifetime = Lifetime::new(self.0, lifetime.span());
    }

    fn visit_type_reference_mut(&mut self, reference: &mut TypeReference) {
        reference.lifetime = Some(Lifetime::new(self.0, reference.and_token.span));
        syn::visit_mut::visit_type_reference_mut(self, reference);
    }
}

/// The type with `'static` for every lifetime, as constants need it.
pub(crate) fn with_static(of: &Type) -> Type {
    let mut of = of.clone();
    Lifetimes("'static").visit_type_mut(&mut of);
    of
}

/// The type with `'_` for every lifetime, for use within a function.
pub(crate) fn with_inferred(of: &Type) -> Type {
    let mut of = of.clone();
    Lifetimes("'_").visit_type_mut(&mut of);
    of
}

/// An expression for the type's name: its own where it has one, otherwise its source text.
fn name_of(of: &Type, text: &str) -> TokenStream {
    quote! {
        gb::Piece::Type(match (<gb::Probe<#of>>::TYPE, <gb::Probe<#of>>::RESULT) {
            (::core::option::Option::Some(of), _) | (_, ::core::option::Option::Some(of)) => of,
            _ => &gb::Type::Named(#text),
        })
    }
}

fn source_text(of: &Type) -> String {
    quote!(#of).to_string()
}

/// Expressions for the pieces of a signature's text.
pub(crate) fn pieces(parameters: &[Parameter], result: &Type) -> TokenStream {
    let mut pieces = vec![quote!(gb::Piece::Text("("))];
    for (index, parameter) in parameters.iter().enumerate() {
        let separator = if index > 0 { ", " } else { "" };
        let colon = if parameter.name.is_empty() { "" } else { ": " };
        let before = format!("{separator}{}{colon}", parameter.name);
        pieces.push(quote!(gb::Piece::Text(#before)));
        pieces.push(name_of(&with_static(&parameter.of), &source_text(&parameter.of)));
    }
    pieces.push(quote!(gb::Piece::Text(") -> ")));
    pieces.extend(result_pieces(result));
    quote!(&[#(#pieces),*])
}

/// A `Result`'s error that can't be encoded crosses the border as its text.
fn result_pieces(result: &Type) -> Vec<TokenStream> {
    let fixed = with_static(result);
    if !is_result(result) {
        return vec![name_of(&fixed, &source_text(result))];
    }
    let of = |number: usize| generic_argument(result, number).map(|of| source_text(&of));
    let (value_text, error_text) = (of(0).unwrap_or("()".into()), of(1).unwrap_or("Error".into()));
    let value: Type = syn::parse_quote!(<#fixed as gb::ResultTypes>::Ok);
    let error: Type = syn::parse_quote!(<#fixed as gb::ResultTypes>::Error);
    let error_name = name_of(&error, &error_text);
    vec![
        quote!(gb::Piece::Text("Result<")),
        name_of(&value, &value_text),
        quote!(gb::Piece::Text(", ")),
        quote! {
            if <gb::Probe<#error>>::SERIALIZE { #error_name } else { gb::Piece::Text("String") }
        },
        quote!(gb::Piece::Text(">")),
    ]
}

fn generic_argument(of: &Type, number: usize) -> Option<Type> {
    let PathArguments::AngleBracketed(arguments) = &last_segment(of)?.arguments else {
        return None;
    };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(of) => Some(of.clone()),
        _ => None,
    });
    types.into_iter().nth(number)
}
