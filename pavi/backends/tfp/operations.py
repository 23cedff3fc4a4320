"""Names of TensorFlow's operations, by how they are read; see `tracing`."""

from __future__ import annotations

# operation of TensorFlow -> of `pavi.expression`
ELEMENTWISE = {
    "Add": "add",
    "AddV2": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "RealDiv": "divide",
    "Div": "divide",
    "DivNoNan": "divide_no_nan",
    "Maximum": "maximum",
    "Minimum": "minimum",
    "Less": "less",
    "LessEqual": "less_equal",
    "Greater": "greater",
    "GreaterEqual": "greater_equal",
    "Equal": "equal",
    "NotEqual": "not_equal",
    "LogicalAnd": "and",
    "LogicalOr": "or",
    "LogicalNot": "not",
    "SelectV2": "where",
    "Neg": "negative",
    "Square": "square",
    "Reciprocal": "reciprocal",
    "Inv": "reciprocal",
    "Exp": "exp",
    "Expm1": "expm1",
    "Log": "log",
    "Log1p": "log1p",
    "Sqrt": "sqrt",
    "Softplus": "softplus",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Sin": "sin",
    "Cos": "cos",
    "Sinh": "sinh",
    "Cosh": "cosh",
    "Asinh": "arcsinh",
    "Abs": "abs",
    "Lgamma": "lgamma",
    "Digamma": "digamma",
    "Erf": "erf",
    "IsFinite": "is_finite",
    "StopGradient": "stop_gradient",
}
UNCHANGED = {"Identity", "PreventGradient", "Snapshot", "EnsureShape", "CheckNumerics"}
# on integers these round
OF_FLOATS = {"Div", "Mean", "Reciprocal", "Inv"}
OF_THE_SHAPE = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}
REDUCTIONS = {"Sum": "sum", "Mean": "mean", "Max": "max"}
ALONG = {"Softmax": "softmax", "Cumsum": "cumsum"}
PRODUCTS = {"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"}
STATES = {"VarHandleOp", "ReadVariableOp", "VariableV2"}
