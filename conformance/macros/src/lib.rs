//! The attribute `case`, by which a function of the suite becomes a case.
//!
//! An attribute and not a `macro_rules!` around the functions, because rustfmt leaves the body of such a macro alone.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, ExprLit, Ident, ItemFn, Lit, LitStr, Meta, Token, parse_macro_input};

/// Declares a function as a case: `#[case("PUB-3", "PUB-7", deadline_s = 60)]`.
///
/// The requirements that the case judges come first. Each word after them is a method of `Case`, with its argument after
/// `=` if it takes one. The function's documentation is what the case is about, and its name with `-` instead of `_` is
/// the second half of the case's name.
///
/// Works only in the package `local-daemon-conformance`.
#[proc_macro_attribute]
pub fn case(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = parse_macro_input!(arguments with Punctuated::<Argument, Token![,]>::parse_terminated);
    let function = parse_macro_input!(item as ItemFn);
    declare(arguments, &function).unwrap_or_else(Error::into_compile_error).into()
}

enum Argument {
    Requirement(LitStr),
    Option(Ident, Option<Expr>),
}

impl Parse for Argument {
    fn parse(input: ParseStream) -> syn::Result<Self> {
        if input.peek(LitStr) {
            return input.parse().map(Self::Requirement);
        }
        let option = input.parse()?;
        let value = input.parse::<Option<Token![=]>>()?.map(|_| input.parse()).transpose()?;
        Ok(Self::Option(option, value))
    }
}

fn declare(arguments: Punctuated<Argument, Token![,]>, function: &ItemFn) -> syn::Result<Tokens> {
    let ident = &function.sig.ident;
    let about = documentation(function);
    if about.is_empty() {
        return Err(Error::new_spanned(ident, "a case is documented: what is arranged, done and looked for"));
    }
    let mut requirements = Vec::new();
    let mut options = Tokens::new();
    for argument in arguments {
        match argument {
            Argument::Requirement(id) => requirements.push(id),
            Argument::Option(option, value) => options.extend(quote!(.#option(#value))),
        }
    }
    if requirements.is_empty() {
        return Err(Error::new_spanned(ident, "a case names the requirements that it judges"));
    }
    let name = ident.to_string().replace('_', "-");
    let declaration = quote! {
        ::inventory::submit! {
            crate::case::Declaration {
                module: module_path!(),
                line: line!(),
                case: crate::case::Case::new(#name, &[#(#requirements),*], #about, #ident)#options,
            }
        }
    };
    Ok([function.to_token_stream(), declaration].into_iter().collect())
}

/// Returns the documentation of a function as one line.
fn documentation(function: &ItemFn) -> String {
    let lines = function.attrs.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(doc) if doc.path.is_ident("doc") => match &doc.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ").trim().to_owned()
}
