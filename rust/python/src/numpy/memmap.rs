//! The C half of `mmnpz.memmap`: indexing that runs no Python code. `array_wrap` has the method that ufuncs
//! call.
//!
//! `np.memmap.__getitem__` is a Python function: it calls NumPy's own indexing, and turns results that are
//! copies (fancy indexing) into plain arrays. The slots of this type do the same in C.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use numpy::PyUntypedArray;
use numpy::npyffi::{NpyTypes, PY_ARRAY_API, PyArrayObject};
use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::type_object::PyTypeInfo;
use pyo3::types::PyString;

use crate::mapping::Mapping;
use crate::numpy::{array_wrap, slot_type};

/// Makes the type `mmnpz.memmap`, a subclass of `np.memmap`. The package adds its documentation and its
/// Python methods: a Python class on top would cost time whenever an array is made or freed.
pub(crate) fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let array = PyUntypedArray::type_object_raw(py);
    // SAFETY: the types of these two slots are those of the fields below, and ndarray lives as long as NumPy.
    let functions = unsafe {
        slot_type::function(array, ffi::Py_mp_subscript).zip(slot_type::function(array, ffi::Py_sq_item))
    };
    let Some((subscript_of_array, item_of_array)) = functions else {
        return Err(PySystemError::new_err("ndarray cannot be indexed"));
    };
    let mapping = Mapping::type_object_raw(py);
    TYPES.get_or_init(|| Types { subscript: subscript_of_array, item: item_of_array, array, mapping });
    let memmap = py.import("numpy")?.getattr("memmap")?.cast_into()?;
    // Leaked: the type keeps pointers to these tables. It is made once, and lives as long as the process.
    let methods = Box::leak(Box::new([array_wrap::METHOD, ffi::PyMethodDef::default()]));
    let attributes = Box::leak(Box::new([
        ffi::PyGetSetDef {
            name: c"__dict__".as_ptr(),
            get: Some(dict),
            set: Some(set_dict),
            doc: c"dictionary for instance variables".as_ptr(),
            closure: ptr::null_mut(),
        },
        ffi::PyGetSetDef::default(),
    ]));
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_mp_subscript, pfunc: subscript as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_sq_item, pfunc: item as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_setattro, pfunc: set_attribute as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: methods.as_mut_ptr().cast() },
        ffi::PyType_Slot { slot: ffi::Py_tp_getset, pfunc: attributes.as_mut_ptr().cast() },
        ffi::PyType_Slot { slot: 0, pfunc: ptr::null_mut() },
    ];
    // SAFETY: the functions have the types of their slots, and are static. The tables of methods and of
    // attributes end with an empty entry, and are never freed. The last slot is zero.
    unsafe { slot_type::make(&memmap, c"mmnpz.memmap", &mut slots) }
}

/// The functions and types that the slots need, looked up once.
struct Types {
    subscript: ffi::binaryfunc,
    item: ffi::ssizeargfunc,
    array: *mut ffi::PyTypeObject,
    mapping: *mut ffi::PyTypeObject,
}

// SAFETY: the pointers are to type objects that live as long as the process, and are only compared and passed
// on.
unsafe impl Send for Types {}
// SAFETY: as above; no code changes a type through them.
unsafe impl Sync for Types {}

static TYPES: OnceLock<Types> = OnceLock::new();

unsafe extern "C" fn subscript(array: *mut ffi::PyObject, index: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let Some(types) = TYPES.get() else { return no_slot() };
    // SAFETY: Python passes an instance of this type, which is a subclass of ndarray, and an object. The
    // function is ndarray's own function of the same slot.
    unsafe {
        if ffi::Py_TYPE(index) == &raw mut ffi::PySlice_Type && is_mapped(types, array.cast()) {
            // A slice of a map is part of the map.
            return (types.subscript)(array, index);
        }
        settle(types, array, (types.subscript)(array, index))
    }
}

unsafe extern "C" fn item(array: *mut ffi::PyObject, index: ffi::Py_ssize_t) -> *mut ffi::PyObject {
    let Some(types) = TYPES.get() else { return no_slot() };
    // SAFETY: as in `subscript`.
    unsafe { settle(types, array, (types.item)(array, index)) }
}

/// The attributes by which a program changes an array itself.
const OF_THE_ARRAY: [&str; 3] = ["shape", "dtype", "strides"];

/// Marks a new view as the caller's own, who may set its shape and its dtype. Those of a view that the reader
/// keeps cannot be set: all others who look the array up would have them, too.
///
/// The mark is that the garbage collector tracks the view, as it does slices and copies.
pub(crate) fn make_own(view: &Bound<'_, PyAny>) {
    // SAFETY: attached, and a live object. Of what a member gives, only arrays of this type have the flag.
    unsafe {
        if ffi::PyType_GetFlags(view.get_type_ptr()) & ffi::Py_TPFLAGS_HAVE_GC != 0 {
            track(view.as_ptr());
        }
    }
}

/// Whether an attribute is one of those by which a program changes an array itself.
///
/// # Safety
/// Must be called with the interpreter attached; `name` must be a live object.
unsafe fn is_of_the_array(name: *mut ffi::PyObject) -> bool {
    // SAFETY: by contract.
    let name = unsafe { Borrowed::from_ptr(Python::assume_attached(), name) };
    name.cast::<PyString>().is_ok_and(|name| name.to_str().is_ok_and(|name| OF_THE_ARRAY.contains(&name)))
}

/// Has the garbage collector track an array. Views are made untracked, as they cannot be part of a cycle.
/// Each function that gives access to the attributes of a view calls this first.
///
/// # Safety
/// Must be called with the interpreter attached; `array` must be a live instance of the type.
unsafe fn track(array: *mut ffi::PyObject) {
    // SAFETY: attached, and a live array by contract. The type has a __dict__, so the collector's allocator
    // makes its instances. Untracking is allowed in any state, and tracking after it. The section keeps two
    // threads from doing so at once.
    unsafe {
        with_critical_section(&Borrowed::from_ptr(Python::assume_attached(), array), || {
            ffi::PyObject_GC_UnTrack(array.cast());
            ffi::PyObject_GC_Track(array.cast());
        });
    }
}

unsafe extern "C" fn set_attribute(
    array: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: Python passes a live instance of the type, a name, and a value or NULL.
    unsafe {
        if ffi::PyObject_GC_IsTracked(array) == 0 && is_of_the_array(name) {
            let message =
                c"the reader keeps this view, and gives it to all who look it up: use reshape() or \
                            view(), or open the file with cache=False";
            ffi::PyErr_SetString(ffi::PyExc_AttributeError, message.as_ptr());
            return -1;
        }
        track(array);
        ffi::PyObject_GenericSetAttr(array, name, value)
    }
}

/// `view.__dict__`, by which a program can set attributes without `set_attribute`.
unsafe extern "C" fn dict(array: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: Python calls this with a live instance of the type, which has a __dict__.
    unsafe {
        track(array);
        ffi::PyObject_GenericGetDict(array, ptr::null_mut())
    }
}

/// `view.__dict__ = value`, or `del view.__dict__` if `value` is NULL, which leaves no attributes, as for a
/// class that Python code defines.
unsafe extern "C" fn set_dict(array: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    // SAFETY: Python calls this with a live instance of the type, which has a __dict__, and a live object or
    // NULL. The call takes its own reference to the empty dict, and this function gives up the first one.
    unsafe {
        track(array);
        if !value.is_null() {
            return ffi::PyObject_GenericSetDict(array, value, ptr::null_mut());
        }
        let empty = ffi::PyDict_New();
        if empty.is_null() {
            return -1;
        }
        let result = ffi::PyObject_GenericSetDict(array, empty, ptr::null_mut());
        ffi::Py_DECREF(empty);
        result
    }
}

fn no_slot() -> *mut ffi::PyObject {
    // SAFETY: called from a slot, so attached; the exception type and the message are static.
    unsafe { ffi::PyErr_SetString(ffi::PyExc_SystemError, c"ndarray has no indexing".as_ptr()) };
    ptr::null_mut()
}

/// Makes a result that is not part of a map a plain array, as `np.memmap` does.
///
/// # Safety
/// Must be called with the interpreter attached. `result` is NULL with an exception set, or an owned
/// reference that this function takes over.
#[inline]
unsafe fn settle(types: &Types, array: *mut ffi::PyObject, result: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: `result` is NULL or a live object by contract, `array` a live ndarray. A result of the same
    // type as `array` is an ndarray, too, so its fields may be read.
    unsafe {
        if result.is_null() || ffi::Py_TYPE(result) != ffi::Py_TYPE(array) || is_mapped(types, result.cast())
        {
            result
        } else {
            plain(result)
        }
    }
}

/// The same items as a plain array.
///
/// # Safety
/// Must be called with the interpreter attached; `array` is an owned reference to an ndarray, which is taken
/// over.
#[cold]
unsafe fn plain(array: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: attached by contract; a view of a live array, which the view keeps alive, so this reference can
    // be given up.
    unsafe {
        let py = Python::assume_attached();
        let array_type = PY_ARRAY_API.get_type_object(py, NpyTypes::PyArray_Type);
        let plain = PY_ARRAY_API.PyArray_View(py, array.cast(), ptr::null_mut(), array_type);
        ffi::Py_DECREF(array);
        plain
    }
}

/// Whether the memory of an array belongs to a map that mmnpz made.
///
/// # Safety
/// `array` must point to a live ndarray.
#[inline]
unsafe fn is_mapped(types: &Types, mut array: *mut PyArrayObject) -> bool {
    loop {
        // SAFETY: `array` is live: it is the argument, or a base that the argument keeps alive. The base of
        // an array is fixed once it is made, and only bases that are ndarrays are looked into.
        unsafe {
            let base = (*array).base;
            if base.is_null() {
                return false;
            }
            if ffi::Py_TYPE(base) == types.mapping {
                return true;
            }
            // The base is nearly always the array over the whole map, which has the same type: that saves a
            // call.
            if ffi::Py_TYPE(base) != ffi::Py_TYPE(array.cast())
                && ffi::PyObject_TypeCheck(base, types.array) == 0
            {
                return false;
            }
            array = base.cast();
        }
    }
}
