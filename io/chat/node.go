package chat

// expr is a node of an expression.
type expr interface {
	eval(r *render, f *frame) value
}

// arg lists what a call is given.
type argList struct {
	args   []expr
	names  []string // of kwargs
	kwargs []expr
	star   expr // *x, or nil
	stars  expr // **x, or nil
}

type (
	constNode struct{ v value }
	nameNode  struct {
		name     string
		up, slot int // as bind found it
	}
	listNode struct {
		items []expr
		tuple bool
	}
	dictNode struct{ keys, values []expr }
	condNode struct{ test, then, otherwise expr } // otherwise may be nil
	andNode  struct{ left, right expr }
	orNode   struct{ left, right expr }
	notNode  struct{ of expr }
	// compareNode is a chain: 1 < x <= 9.
	compareNode struct {
		first expr
		ops   []string
		rest  []expr
	}
	binaryNode struct {
		op          string
		left, right expr
	}
	unaryNode struct {
		minus bool
		of    expr
	}
	concatNode struct{ parts []expr }
	attrNode   struct {
		of   expr
		name string
	}
	itemNode struct{ of, index expr }
	// sliceNode is from:to:step; what is left out is nil.
	sliceNode struct{ of, from, to, step expr }
	callNode  struct {
		of expr
		argList
	}
	filterNode struct {
		of   expr // nil in a filter block: what the block printed
		name string
		do   filter // nil: there is none of that name
		argList
	}
	testNode struct {
		of   expr
		name string
		do   test // nil: there is none of that name
		argList
	}
)

// stmt is a statement, or data and expressions to print.
type stmt interface {
	run(r *render, f *frame) signal
}

// signal says how a statement ended.
type signal int

const (
	goOn signal = iota
	breaks
	continues
)

// target is what a value is given to: one name, an attribute of a namespace, or a tuple of targets.
type target struct {
	name  *nameNode
	attr  string // of the namespace called name; "" for the name itself
	tuple []target
}

type (
	outputNode struct {
		line  int
		parts []expr
	}
	ifNode struct {
		line      int
		tests     []expr
		bodies    [][]stmt
		otherwise []stmt
	}
	forNode struct {
		line            int
		to              target
		in, test        expr
		recursive       bool
		body, otherwise []stmt
		loop            int // slot of loop in a frame of body; -1 where nothing asks for it

		testTo                       target // to, in the frame of the test
		bodyFrame, testFrame, noItem *layout
	}
	setNode struct {
		line int
		to   target
		of   expr
	}
	setBlockNode struct {
		line   int
		to     target
		filter expr // nil: none
		body   []stmt
		frame  *layout
	}
	// macroNode is a macro, or the body of a call block, which has no name.
	macroNode struct {
		line                    int
		name                    string
		to                      *nameNode
		params                  []string
		defaults                []expr // of the last params
		body                    []stmt
		frame                   *layout
		slots                   []int // of params
		caller, kwargs, varargs int   // slots; -1 where the body does not ask
	}
	callBlockNode struct {
		line int
		call *callNode
		body *macroNode
	}
	filterBlockNode struct {
		line   int
		filter expr
		body   []stmt
		frame  *layout
	}
	withNode struct {
		line   int
		to     []target
		values []expr
		body   []stmt
		frame  *layout
	}
	// scopeNode is a body with a frame of its own: a block, a generation tag, autoescape.
	scopeNode struct {
		line   int
		body   []stmt
		frame  *layout
		apart  bool // sees only what the top level has
		escape expr // of autoescape
		opaque bool // a function of its own: no break out of it
	}
	jumpNode struct {
		line int
		to   signal
	}
	loadNode struct { // include, import, extends: there is nothing to load
		line  int
		of    expr
		names []*nameNode
	}
)
