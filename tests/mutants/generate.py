"""Mutants of Rust sources: small bugs, all of them in one text, each behind `crate::mutant(N)`.

The sorts are those of cargo-mutants: a function that returns at once with a value of its type, another operator, a `!`
that is dropped, guards and arms of `match` that never or always hold; and two that fit these sources: an `if` whose
body only leaves that never does, and a check with `?` that is left out. What macros are given stays as it is.
"""

import re

import tree_sitter
import tree_sitter_rust

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))
OPERATORS = {
    "==": ["!="], "!=": ["=="], "&&": ["||"], "||": ["&&"], "<": ["<=", ">"], ">": [">=", "<"], "<=": ["<", ">"],
    ">=": [">", "<"], "+": ["-", "*"], "-": ["+", "/"], "*": ["+", "/"], "/": ["*", "%"], "%": ["/", "+"],
}
LEAVES = {"return_expression", "continue_expression", "break_expression"}
# What the compiler computes has no switches, and comments no mutants.
SKIPPED = {"const_item", "static_item", "attribute_item", "macro_definition", "macro_invocation", "array_type",
           "line_comment", "block_comment"}
FOR_TESTS = re.compile(r"cfg\(test\)|^#\[(tokio::)?test")
MARKED = re.compile(r"/\*<(\d+)\*/.*?/\*\1>\*/", re.S)
VALUES = [
    (r"bool", ["true", "false"]),
    (r"String", ["String::new()", '"xyzzy".to_string()']),
    (r"&('\w+ )?str", ['""', '"xyzzy"']),
    (r"[iu](8|16|32|64|128|size)", ["0", "1"]),
    (r"(Vec|BTreeMap|BTreeSet|HashMap|HashSet)<.*>|\(\)", ["Default::default()"]),
    (r"Option<.*>", ["None"]),
]


def values(type_):
    """Values that a function of this type may return instead of working."""
    type_ = " ".join(type_.split())
    if inner := re.fullmatch(r"Result<(.*), [\w:]+>", type_):
        return [f"Ok({value})" for value in values(inner[1])]
    return next((found for pattern, found in VALUES if re.fullmatch(pattern, type_)), [])


def marked(number, text):
    """Text that goes where the mutant does not compile."""
    return f"/*<{number}*/{text}/*{number}>*/"


class Source:
    """A file's mutants, by number: line and what they do."""

    def __init__(self, text, first):
        self.bytes, self.first, self.mutants = text.encode(), first, {}
        # Modules in other files that are for tests.
        self.tests = []
        # Numbers, place and text of what is put in front of something and after it, in the order of the tree.
        self.starts, self.ends = [], []
        self.walk(PARSER.parse(self.bytes).root_node)

    def raw(self, node):
        return self.bytes[node.start_byte:node.end_byte].decode()

    def new(self, node, what):
        number = self.first + len(self.mutants)
        shown = " ".join(self.raw(node).split())
        self.mutants[number] = (node.start_point.row + 1, f"{what}: {shown if len(shown) < 90 else shown[:87] + '...'}")
        return number

    def around(self, node, numbers, before, after):
        self.starts.append((numbers, node.start_byte, before))
        self.ends.append((numbers, node.end_byte, after))

    def walk(self, node):
        if make := getattr(self, node.type, None):
            make(node)
        for_tests = False
        for child in node.named_children:
            if child.type == "attribute_item":
                for_tests = for_tests or bool(FOR_TESTS.search(self.raw(child)))
            elif child.type in ("line_comment", "block_comment"):
                continue
            elif not for_tests and child.type not in SKIPPED:
                self.walk(child)
            else:
                if child.type == "mod_item":
                    self.tests.append(self.raw(child.child_by_field_name("name")))
                for_tests = False

    def choice(self, node, others):
        """Other expressions in an expression's place."""
        numbers = [self.new(node, what) for what, _ in others]
        arms = (marked(n, f"if crate::mutant({n}) {{ {new} }} else ") for n, (_, new) in zip(numbers, others))
        self.around(node, numbers, f"({''.join(arms)}{{ ", " })")

    def binary_expression(self, node):
        op = node.child_by_field_name("operator")
        left, right = (self.raw(node.child_by_field_name(side)) for side in ("left", "right"))
        if others := OPERATORS.get(self.raw(op)):
            self.choice(node, [(f"{self.raw(op)} is {new}", f"({left}) {new} ({right})") for new in others])

    def unary_expression(self, node):
        if self.raw(node)[0] in "!-":
            self.choice(node, [(f"no {self.raw(node)[0]}", self.raw(node.named_children[0]))])

    def if_expression(self, node):
        """An `if` whose body leaves."""
        body = [n for n in node.child_by_field_name("consequence").named_children if not n.type.endswith("comment")]
        last = body[-1] if body else node
        if (last.named_children[0] if last.type == "expression_statement" else last).type in LEAVES:
            condition = node.child_by_field_name("condition")
            n = self.new(condition, "if that never holds")
            whole = condition.type in ("let_condition", "let_chain")
            self.around(condition, [n], "" if whole else "(", ("" if whole else ")") + marked(n, f" && !crate::mutant({n})"))

    def match_block(self, node):
        """Guards, and arms without one before an arm for all."""
        arms = [n for n in node.named_children if n.type == "match_arm"]
        patterns = [arm.child_by_field_name("pattern") for arm in arms]
        for_all = any(self.raw(pattern) == "_" for pattern in patterns)
        for pattern in patterns:
            guard = pattern.child_by_field_name("condition")
            if guard is None:
                if for_all and self.raw(pattern) != "_":
                    n = self.new(pattern, "no arm")
                    self.around(pattern, [n], "", marked(n, f" if !crate::mutant({n})"))
            elif guard.type in ("let_condition", "let_chain"):
                n = self.new(guard, "guard that never holds")
                self.around(guard, [n], "", marked(n, f" && !crate::mutant({n})"))
            else:
                a, b = self.new(guard, "guard that always holds"), self.new(guard, "guard that never holds")
                before = "(" + marked(a, f"crate::mutant({a}) || ") + "("
                self.around(guard, [a, b], before, "))" + marked(b, f" && !crate::mutant({b})"))

    def expression_statement(self, node):
        """A check whose answer nobody uses."""
        if node.named_children[0].type == "try_expression":
            n = self.new(node, "no check")
            self.around(node, [n], marked(n, f"if !crate::mutant({n}) {{ "), marked(n, " }"))

    def function_item(self, node):
        body, type_ = node.child_by_field_name("body"), node.child_by_field_name("return_type")
        found = values(self.raw(type_)) if type_ is not None else ["()"]
        inner = " ".join(self.raw(body)[1:-1].split())
        is_const = any(n.type == "function_modifiers" and "const" in self.raw(n) for n in node.children)
        if not inner or is_const:
            return
        name = self.raw(node.child_by_field_name("name"))
        for value in found:
            if value != inner:
                n = self.new(body, f"{name} returns {value}")
                early = marked(n, f" if crate::mutant({n}) {{ return {value}; }} ")
                self.starts.append(([n], body.start_byte + 1, early))

    def text(self, out=frozenset()):
        """The file with its mutants but those that are out, and the places in it that each of them changes."""
        puts = [(at, 1, i, numbers, text) for i, (numbers, at, text) in enumerate(self.starts)]
        puts += [(at, 0, -i, numbers, text) for i, (numbers, at, text) in enumerate(self.ends)]
        text, at, opened, places = b"", 0, {}, []
        for place, _, _, numbers, added in sorted(puts, key=lambda put: put[:3]):
            added = MARKED.sub(lambda m: "" if int(m[1]) in out else m[0], added)
            text += self.bytes[at:place]
            start, at = len(text), place
            text += added.encode()
            for n in numbers:
                opened.setdefault(n, start)
                places.append((opened[n], len(text), numbers))
            places += [(start + m.start(), start + m.end(), [int(m[1])]) for m in MARKED.finditer(added)]
        return (text + self.bytes[at:]).decode(), places
